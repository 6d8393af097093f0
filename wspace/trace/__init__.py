"""The model's own graph: what its program says about its parameters."""

from wspace.trace.axes import axes as axes
from wspace.trace.by_hand import by_hand as by_hand
from wspace.trace.groups import Group as Group
from wspace.trace.groups import Member as Member
from wspace.trace.groups import Symmetries as Symmetries
