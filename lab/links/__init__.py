"""The wires of a lab: bridges in a namespace of the lab, a port for each node, and what happens to frames."""
