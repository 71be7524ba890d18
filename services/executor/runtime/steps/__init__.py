"""What the child does between clone and execve, one kernel concern a module; `init` has the order."""
