"""Control groups version 2: one hierarchy, one file here for each controller."""
