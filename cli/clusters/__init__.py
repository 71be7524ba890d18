"""The commands of `davit cluster`."""
