"""Products with weights that stay quantized in memory."""

from .api import dequant_matmul, packed

__all__ = ["dequant_matmul", "packed"]
