"""The cluster: who is in it, who is let in, who is alive, and where containers go."""
