"""Containers and execs: desired state, life cycle, scheduling and reconciliation."""
