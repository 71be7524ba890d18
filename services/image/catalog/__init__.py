"""Images that are here: what they are, how they are named, found, listed and removed."""
