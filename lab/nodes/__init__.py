"""The nodes of a lab: namespaces that no process owns, and engines in them."""
