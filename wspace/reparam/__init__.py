"""Reparameterizations: a leaf becomes an Implicit node that stands for it; training differentiates `materialize`."""

from wspace.reparam.combine_adapters import combine_adapters as combine_adapters
from wspace.reparam.extract_lora import extract_lora as extract_lora
from wspace.reparam.extract_lora import lora_ranks as lora_ranks
from wspace.reparam.lora import LoRA as LoRA
from wspace.reparam.lora import lora as lora
from wspace.reparam.multi_loss import multi_loss as multi_loss
from wspace.reparam.tunable import Tunable as Tunable
from wspace.reparam.tunable import tunable as tunable
from wspace.reparam.tunable import tune as tune
from wspace.reparam.weight_norm import WeightNorm as WeightNorm
from wspace.reparam.weight_norm import weight_norm as weight_norm
from wspace.reparam.weight_norm import weight_norm_data_init as weight_norm_data_init
