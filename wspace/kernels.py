"""The kernels: hot loops of wspace, for TPUs and GPUs, with a reference that runs everywhere."""

from __future__ import annotations

from wspace_kernels.dequant_matmul import dequant_matmul, packed
from wspace_kernels.merge_many import merge_many
from wspace_kernels.quantize_blockwise import (
    Moments,
    adam_8bit,
    dequantize_blockwise,
    empty_moments,
    quantize_blockwise,
)

__all__ = [
    "Moments",
    "adam_8bit",
    "dequant_matmul",
    "dequantize_blockwise",
    "empty_moments",
    "merge_many",
    "packed",
    "quantize_blockwise",
]
