"""In-memory doubles that pass the same suites as the real parts, and a clock that tests move."""
