"""Domain events: recorded with their change, published in order, followed by who wants them."""
