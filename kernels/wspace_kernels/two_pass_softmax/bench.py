"""Time of a softmax beside the copy bandwidth: `python -m wspace_kernels.two_pass_softmax.bench`."""

from __future__ import annotations

from wspace_kernels.timing import report
from wspace_kernels.two_pass_softmax.cases import CASES

if __name__ == "__main__":
    for line in report(CASES):
        print(line, flush=True)
