"""The kernels: hot loops of wspace, for TPUs and GPUs, with a reference that runs everywhere."""

from __future__ import annotations

from wspace_kernels.dequant_matmul import dequant_matmul, packed
from wspace_kernels.merge_many import merge_many

__all__ = ["dequant_matmul", "merge_many", "packed"]
