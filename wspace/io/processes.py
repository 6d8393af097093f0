"""Many processes that write one checkpoint: they say short things to one another, and one failing fails all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from wspace.core.errors import WspaceError

T = TypeVar("T")


class Processes:
    """This process alone; every method is what `Together` does for one."""

    index: int = 0
    count: int = 1

    def told(self, fact: Any) -> list[Any]:
        """What every process says, in their order: JSON. All must call it."""
        return [fact]

    def first(self, make: Callable[[], T]) -> T | None:
        """Done by the first process while the others wait; None for those. What it raises is raised in all."""
        made, problem = None, None
        if self.index == 0:
            try:
                made = make()
            except Exception as error:
                problem = error
        self._agree(problem)
        return made

    @contextlib.contextmanager
    def all_well(self) -> Iterator[None]:
        """No process leaves the block before all are at its end; an error in one of them is raised in all."""
        problem = None
        try:
            yield
        except Exception as error:
            problem = error
        self._agree(problem)

    def _agree(self, problem: Exception | None) -> None:
        words = self.told(problem and f"{problem}")
        if problem is not None:
            raise problem
        for index, text in enumerate(words):
            if text is not None:
                raise WspaceError(f"process {index}: {text}")


class Together(Processes):
    """All processes of `jax.distributed`, on one file system."""

    def __init__(self) -> None:
        import jax

        self.index, self.count = jax.process_index(), jax.process_count()

    def told(self, fact: Any) -> list[Any]:
        from jax.experimental.multihost_utils import process_allgather

        text = np.frombuffer(json.dumps(fact).encode(), np.uint8)
        size = np.array([text.size], np.uint32)  # 64 bits would be narrowed
        sizes = np.asarray(process_allgather(size)).reshape(-1)
        filled = np.zeros(int(sizes.max()), np.uint8)
        filled[: text.size] = text
        every = np.asarray(process_allgather(filled)).reshape(self.count, -1)
        return [json.loads(row[:n].tobytes()) for row, n in zip(every, sizes, strict=True)]


ALONE = Processes()


def processes_of(leaves: Iterator[Any]) -> Processes:
    """All processes, if one of the leaves lies on devices of several; else this one alone."""
    return ALONE if all(getattr(x, "is_fully_addressable", True) for x in leaves) else Together()
