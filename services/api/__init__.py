"""HTTP edge: the Docker Engine API, its streams and its versions. No state of its own."""
