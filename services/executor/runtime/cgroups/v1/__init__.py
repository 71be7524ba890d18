"""Control groups version 1: a hierarchy for each controller, one file here for each."""
