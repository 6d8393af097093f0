"""The gains of a matching: a product with permuted rows that are never written anywhere."""

from .api import permute_gather

__all__ = ["permute_gather"]
