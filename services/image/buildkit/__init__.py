"""BuildKit's protocol in front of the builder: what `docker build`, `docker bake` and `docker compose build` speak.

A process of its own, which lives while clients are connected and a moment longer; see `door` for how they get to it.
"""
