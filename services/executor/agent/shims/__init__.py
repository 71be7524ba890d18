"""The agent's side of the runtime: its zygote, its shims, and other runtimes of the node."""
