"""A service's database: SQLite or Postgres behind the same code."""
