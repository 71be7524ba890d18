"""What shall go wrong, and when."""
