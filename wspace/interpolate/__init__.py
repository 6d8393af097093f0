"""Interpolation: points on paths between models, and the paths themselves."""

from wspace.interpolate.lerp import lerp as lerp
from wspace.interpolate.path import segment as segment
from wspace.interpolate.slerp import slerp as slerp
