"""Files of containers: their roots, archives of them, volumes, and what is laid beside an image's files."""
