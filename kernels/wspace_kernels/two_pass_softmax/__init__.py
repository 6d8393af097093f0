"""Softmax of long rows in two passes over memory."""

from .api import two_pass_softmax

__all__ = ["two_pass_softmax"]
