"""Containers: control decides, the agent of each node carries out, the runtime talks to the kernel."""
