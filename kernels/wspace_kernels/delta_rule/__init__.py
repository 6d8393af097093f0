"""The delta rule along a sequence, chunk by chunk: DeltaNet and DeltaProduct."""

from .api import delta_product, delta_rule

__all__ = ["delta_product", "delta_rule"]
