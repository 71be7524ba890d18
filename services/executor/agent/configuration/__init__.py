"""From control's record of a container to the OCI configuration that the runtime is given."""
