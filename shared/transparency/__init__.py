"""Logs that show when they were changed: a Merkle tree over records, and signed statements about it."""
