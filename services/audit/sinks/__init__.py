"""Deliveries: the log's records to where the operator wants them, in order, at least once."""
