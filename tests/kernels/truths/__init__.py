"""Slow numbers, a file an operation."""
