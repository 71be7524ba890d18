"""The commands of davit-runc, one module per group; each is imported only when it is called."""
