"""`davit lab`: clusters on one machine. Declares the commands; what they do is in `lab`, imported when one is run."""

from __future__ import annotations

from cli.lab import life, links, look, nodes
from cli.lab.group import command

__all__ = ["command", "life", "links", "look", "nodes"]
