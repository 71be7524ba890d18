"""Nodes: what is known of them, what they report, and how both sides agree again."""
