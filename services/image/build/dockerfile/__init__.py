"""The Dockerfile front end: text in, stages of typed instructions out. Pure: no files, no network, no clock.

::

    text ──lines──► nodes (keyword, flags, rest, here-documents, line numbers)
         ──instructions──► typed instructions ──stages──► Dockerfile (global ARGs, stages, which stage needs which)

An own parser, because of the two that are published one knows no here-documents and the other loads a Go runtime,
whose threads do not survive the forks that unpacking layers needs.

Source: Dockerfile reference; the texts of errors are those of the classic builder of Docker 20.10.
"""
