"""What earlier builds left that makes later ones faster."""
