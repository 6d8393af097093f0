"""Fast kernels for the hot loops of wspace, one folder an operation."""
