"""Training time: what happens to weights between two steps, as optax transformations."""

from wspace.optim.adam_r import adam_r as adam_r
from wspace.optim.dual import DualState as DualState
from wspace.optim.dual import DualVariable as DualVariable
from wspace.optim.dual import dual_variable as dual_variable
from wspace.optim.project import project as project
from wspace.optim.prune import mask as mask
from wspace.optim.prune import prune as prune
from wspace.optim.schedule import polynomial_sparsity as polynomial_sparsity
from wspace.optim.sgld import SgldState as SgldState
from wspace.optim.sgld import sgld as sgld
