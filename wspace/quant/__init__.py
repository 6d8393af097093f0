"""Quantization: weights as small integers, by rounding or by solving for the layer's output."""

from wspace.quant.gptq import gptq as gptq
from wspace.quant.qtensor import QTensor as QTensor
from wspace.quant.rtn import rtn as rtn
