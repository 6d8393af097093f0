"""Time beside copy bandwidth: `python -m wspace_kernels.gptq_block.bench`."""

from __future__ import annotations

from wspace_kernels.gptq_block.cases import CASES
from wspace_kernels.timing import report

if __name__ == "__main__":
    for line in report(CASES):
        print(line, flush=True)
