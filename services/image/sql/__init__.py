"""The image service's tables and the statements on them, by what they are about. Nobody else reads these tables."""
