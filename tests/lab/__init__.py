"""Engines in a laboratory: davit and the reference engine, each in a network namespace of its own."""
