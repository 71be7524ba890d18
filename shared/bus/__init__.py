"""The message bus: requests, byte streams, and what makes both survive the death of a peer."""
