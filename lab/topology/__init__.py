"""The lab's file: what is wanted, checked before anything starts."""
