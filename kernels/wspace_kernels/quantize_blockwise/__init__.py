"""Eight-bit blocks on the dynamic map, and the Adam step whose moments they are."""

from .api import Moments, adam_8bit, dequantize_blockwise, empty_moments, quantize_blockwise

__all__ = ["Moments", "adam_8bit", "dequantize_blockwise", "empty_moments", "quantize_blockwise"]
