"""Everything that is decided when a container is created: what is refused, and the record that comes out."""
