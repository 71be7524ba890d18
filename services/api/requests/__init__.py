"""What requests carry: the queries and bodies that routes declare, and that are decoded by these declarations."""
