"""Other OCI runtimes under davit's shim."""
