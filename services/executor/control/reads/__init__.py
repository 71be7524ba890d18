"""What clients ask about containers, answered from the database."""
