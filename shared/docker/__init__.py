"""Docker's small rules that several services need, each written once."""
