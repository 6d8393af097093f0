"""The kernels: hot loops of wspace, for TPUs and GPUs, with a reference that runs everywhere."""

from __future__ import annotations

from wspace_kernels.delta_rule import delta_product, delta_rule
from wspace_kernels.dequant_matmul import dequant_matmul, packed
from wspace_kernels.fake_quant import fake_quant
from wspace_kernels.gptq_block import gptq_block
from wspace_kernels.merge_many import merge_many
from wspace_kernels.nm_mask import nm_pack, nm_unpack
from wspace_kernels.permute_gather import permute_gather
from wspace_kernels.quantize_blockwise import (
    Moments,
    adam_8bit,
    dequantize_blockwise,
    empty_moments,
    quantize_blockwise,
)
from wspace_kernels.radix_count import radix_count
from wspace_kernels.two_pass_softmax import two_pass_softmax

__all__ = [
    "Moments",
    "adam_8bit",
    "delta_product",
    "delta_rule",
    "dequant_matmul",
    "dequantize_blockwise",
    "empty_moments",
    "fake_quant",
    "gptq_block",
    "merge_many",
    "nm_pack",
    "nm_unpack",
    "packed",
    "permute_gather",
    "quantize_blockwise",
    "radix_count",
    "two_pass_softmax",
]
