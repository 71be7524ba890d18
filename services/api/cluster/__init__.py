"""The edge's part in a cluster: the door at which machines join, and what it knows of this machine's membership."""
