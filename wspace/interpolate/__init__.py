"""Interpolation: points on paths between models, and the paths themselves."""

from wspace.interpolate.bcwi import AlphaSearch as AlphaSearch
from wspace.interpolate.bcwi import bcwi as bcwi
from wspace.interpolate.bcwi import negative_flip_rate as negative_flip_rate
from wspace.interpolate.bcwi import search_alpha as search_alpha
from wspace.interpolate.bezier import bezier as bezier
from wspace.interpolate.bezier import polygon as polygon
from wspace.interpolate.curve import Connection as Connection
from wspace.interpolate.curve import connect as connect
from wspace.interpolate.curve import curve as curve
from wspace.interpolate.lerp import lerp as lerp
from wspace.interpolate.multislerp import multislerp as multislerp
from wspace.interpolate.nuslerp import nuslerp as nuslerp
from wspace.interpolate.path import segment as segment
from wspace.interpolate.slerp import slerp as slerp
from wspace.interpolate.warp import warp as warp
