"""Count the digits of magnitudes: the step by which order statistics are found without a sort."""

from .api import radix_count

__all__ = ["radix_count"]
