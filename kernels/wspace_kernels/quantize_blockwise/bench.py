"""Time beside copy bandwidth: `python -m wspace_kernels.quantize_blockwise.bench`."""

from __future__ import annotations

from wspace_kernels.quantize_blockwise.cases import CASES
from wspace_kernels.timing import report

if __name__ == "__main__":
    for line in report(CASES):
        print(line, flush=True)
