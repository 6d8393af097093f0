"""Merging models that share a base: task vectors and how to combine them."""

from wspace.merge.dare import dare as dare
from wspace.merge.dare import drop as drop
from wspace.merge.task_arithmetic import task_arithmetic as task_arithmetic
from wspace.merge.task_arithmetic import weighted_sum as weighted_sum
from wspace.merge.ties import elect as elect
from wspace.merge.ties import ties as ties
