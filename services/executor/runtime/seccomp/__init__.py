"""System call filters: Docker's profiles, OCI's, and the classic BPF that comes of them."""
