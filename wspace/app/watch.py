"""What a run took: anonymous memory at its peak, sampled while it goes on."""

from __future__ import annotations

import threading
from types import TracebackType

from wspace.core.memory import anonymous

EVERY = 0.01  # seconds between two looks


class Watch:
    """A context that looks at the process's memory from a thread. peak: anonymous bytes, 0 where no system says."""

    def __init__(self) -> None:
        self.peak = anonymous()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="wspace-watch", daemon=True)

    def _look(self) -> None:
        while not self._ended.wait(EVERY):
            self.peak = max(self.peak, anonymous())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
