"""Objectives: losses and distillation objectives that a transform is trained against."""

from wspace.objectives.distillation import kd_loss as kd_loss
from wspace.objectives.distillation import top_logits as top_logits
from wspace.objectives.entropy import entropy as entropy
from wspace.objectives.pinball import pinball as pinball
