"""Time of one merge beside the copy bandwidth: `python -m wspace_kernels.merge_many.bench`."""

from __future__ import annotations

from wspace_kernels.merge_many.cases import CASES
from wspace_kernels.timing import report

if __name__ == "__main__":
    for line in report(CASES):
        print(line, flush=True)
