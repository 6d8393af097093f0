"""Time beside copy bandwidth and the rate of dense products: `python -m wspace_kernels.dequant_matmul.bench`."""

from __future__ import annotations

from wspace_kernels.dequant_matmul.cases import CASES
from wspace_kernels.timing import report

if __name__ == "__main__":
    for line in report(CASES):
        print(line, flush=True)
