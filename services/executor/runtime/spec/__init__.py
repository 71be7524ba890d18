"""A container's configuration: its shape checked, its defaults, and the plan that is made of it. Pure."""
