"""What instructions do: one concern of a Dockerfile's instructions a module."""
