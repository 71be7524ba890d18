"""From an order to a running process: zygote, launcher, clone, and the talk of parent and child."""
