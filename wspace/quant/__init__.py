"""Quantization: weights as small integers, by rounding or by solving for the layer's output."""

from wspace.quant import layouts as layouts
from wspace.quant.adaround import adaround as adaround
from wspace.quant.amended import KeptEntries as KeptEntries
from wspace.quant.amended import KeptInputs as KeptInputs
from wspace.quant.amended import LowRank as LowRank
from wspace.quant.amended import PerInput as PerInput
from wspace.quant.awq import awq as awq
from wspace.quant.clip import Percentile as Percentile
from wspace.quant.clip import Search as Search
from wspace.quant.flexround import flexround as flexround
from wspace.quant.formats import named as named
from wspace.quant.gptq import gptq as gptq
from wspace.quant.grid import Grid as Grid
from wspace.quant.owq import owq as owq
from wspace.quant.qep import qep as qep
from wspace.quant.qtensor import QTensor as QTensor
from wspace.quant.quantease import quantease as quantease
from wspace.quant.reconstruct import reconstruct as reconstruct
from wspace.quant.rounding import harden as harden
from wspace.quant.rtn import rtn as rtn
from wspace.quant.signround import signround as signround
from wspace.quant.smoothquant import smoothquant as smoothquant
