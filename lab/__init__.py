"""Clusters of davit engines on one machine: nodes in namespaces of their own, and links between them.

::

    topology/  the file: models, YAML with lines, containerlab's form, addresses       [pure]
    links/     wires between nodes: wanted state, the kernel's, a relay for delay      [netlink, nft]
    nodes/     namespaces, control groups, mounts, and the engine that runs in them
    faults/    the timeline, and the process that keeps to it
    lab.py     one lab: up, apply, down, and all that the commands do to it
"""
