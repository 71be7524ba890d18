"""Control's records: tables, statements, and the one place that changes them."""
