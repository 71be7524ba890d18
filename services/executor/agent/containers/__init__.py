"""The life of this node's containers: records, starts, exits, restarts, health."""
