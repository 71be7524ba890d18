"""What the edge records of each request: who, what, with what, and how it ended."""
