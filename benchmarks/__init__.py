"""Side by side with the reference engine, in one run, as medians and ratios."""
