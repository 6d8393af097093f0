"""The inner loop of GPTQ."""

from .api import gptq_block

__all__ = ["gptq_block"]
