"""The registry that the image service is: its store over the OCI distribution API; off unless it has an address."""
