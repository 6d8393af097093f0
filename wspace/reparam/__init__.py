"""Reparameterizations: a leaf becomes an Implicit node that stands for it; training differentiates `materialize`."""

from wspace.reparam.lora import LoRA as LoRA
from wspace.reparam.lora import lora as lora
from wspace.reparam.tunable import Tunable as Tunable
from wspace.reparam.tunable import tunable as tunable
from wspace.reparam.tunable import tune as tune
from wspace.reparam.weight_norm import WeightNorm as WeightNorm
from wspace.reparam.weight_norm import weight_norm as weight_norm
from wspace.reparam.weight_norm import weight_norm_data_init as weight_norm_data_init
