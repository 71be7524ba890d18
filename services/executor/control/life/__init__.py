"""The verbs of a container's life, and waiting for what they bring about."""
