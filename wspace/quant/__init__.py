"""Quantization: weights as small integers, by rounding or by solving for the layer's output."""

from wspace.quant import layouts as layouts
from wspace.quant.clip import Percentile as Percentile
from wspace.quant.clip import Search as Search
from wspace.quant.formats import named as named
from wspace.quant.gptq import gptq as gptq
from wspace.quant.grid import Grid as Grid
from wspace.quant.qtensor import QTensor as QTensor
from wspace.quant.rtn import rtn as rtn
