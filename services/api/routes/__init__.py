"""Docker's resources: each module parses requests, calls contracts and returns views."""
