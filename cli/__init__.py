"""The davit command: engine control and docker-like shortcuts."""
