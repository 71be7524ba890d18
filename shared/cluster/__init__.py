"""A cluster's identity: certificates, join tokens, and what a member keeps of both on its disk."""
