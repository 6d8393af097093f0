"""Time of the gains beside the copy bandwidth: `python -m wspace_kernels.permute_gather.bench`."""

from __future__ import annotations

from wspace_kernels.permute_gather.cases import CASES
from wspace_kernels.timing import report

if __name__ == "__main__":
    for line in report(CASES):
        print(line, flush=True)
