"""Initialization: the weights that training starts from."""

from wspace.init.orthogonal import orthogonal as orthogonal
