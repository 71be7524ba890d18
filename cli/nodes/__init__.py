"""The commands of `davit node`."""
