"""Averaging: one model from many points of one run or of several."""

from wspace.average.ema import EmaState as EmaState
from wspace.average.ema import ema as ema
from wspace.average.ema import ema_params as ema_params
from wspace.average.uniform_soup import uniform_soup as uniform_soup
