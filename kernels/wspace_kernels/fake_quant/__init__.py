"""Weights in training, seen through their grid: rounding and its gradients."""

from .api import fake_quant

__all__ = ["fake_quant"]
