"""Tests of what is read from a model's program."""
