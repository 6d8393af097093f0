"""Merge many leaves into one in a single pass over memory."""

from .api import merge_many

__all__ = ["merge_many"]
