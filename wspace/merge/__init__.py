"""Merging models that share a base: task vectors and how to combine them."""

from wspace.merge.arcee_fusion import arcee_fusion as arcee_fusion
from wspace.merge.breadcrumbs import breadcrumbs as breadcrumbs
from wspace.merge.breadcrumbs import crumbs as crumbs
from wspace.merge.dare import dare as dare
from wspace.merge.dare import drop as drop
from wspace.merge.darex import darex as darex
from wspace.merge.della import della as della
from wspace.merge.della import magprune as magprune
from wspace.merge.delta_weighted import delta_weighted as delta_weighted
from wspace.merge.nearswap import nearswap as nearswap
from wspace.merge.opcm import OPCMState as OPCMState
from wspace.merge.opcm import opcm_init as opcm_init
from wspace.merge.opcm import opcm_update as opcm_update
from wspace.merge.ram import ram as ram
from wspace.merge.ramplus_tl import ramplus_tl as ramplus_tl
from wspace.merge.sce import sce as sce
from wspace.merge.signature import patch as patch
from wspace.merge.signature import robust_weight_signature as robust_weight_signature
from wspace.merge.task_arithmetic import task_arithmetic as task_arithmetic
from wspace.merge.task_arithmetic import weighted_sum as weighted_sum
from wspace.merge.ties import elect as elect
from wspace.merge.ties import ties as ties
from wspace.merge.uncertainty import uncertainty as uncertainty
