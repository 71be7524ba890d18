"""OCI runtime as a library and a command line. Standard library only."""
