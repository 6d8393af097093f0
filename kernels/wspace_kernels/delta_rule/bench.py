"""Time of a sequence beside the copy bandwidth: `python -m wspace_kernels.delta_rule.bench`."""

from __future__ import annotations

from wspace_kernels.delta_rule.cases import CASES
from wspace_kernels.timing import report

if __name__ == "__main__":
    for line in report(CASES):
        print(line, flush=True)
