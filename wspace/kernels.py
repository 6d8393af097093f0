"""The kernels: hot loops of wspace, for TPUs and GPUs, with a reference that runs everywhere."""

from __future__ import annotations

from wspace_kernels.merge_many import merge_many

__all__ = ["merge_many"]
