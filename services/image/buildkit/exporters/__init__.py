"""The kinds of output of a build, one module each."""
