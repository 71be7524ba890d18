"""Builds images from Dockerfiles with the classic builder's semantics and output.

::

    request ──► context/   the files a build may copy from
            ──► dockerfile/ what to do, as stages of typed instructions
            ──► solver     needed stages side by side; per stage one instruction after the other:
                  cache ──hit──────────────────────► next image
                  config (ENV, CMD, …)  no container ► image with a new configuration
                  copy   (COPY, ADD)    no container ► image with a new layer
                  run    (RUN)   executor: container ► image with the container's changes as a layer
"""
