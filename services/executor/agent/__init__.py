"""One per node: carries out what the services decided and reports what happened."""
