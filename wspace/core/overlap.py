"""Reading ahead and writing behind: what a pass over files waits for happens while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from wspace.core.typing import Index, Leaf, Path

Write = Callable[[Path, Leaf, Index | None], None]


class Transport(NamedTuple):
    """reads: paths -> what was read of each, in order. write: a path, its leaf, and which rows of it (None: all).

    wait: until nothing is being written any more.
    """

    reads: Callable[[Sequence[Path]], Iterator[Any]]
    write: Write
    wait: Callable[[], None] = lambda: None


def plain(read: Callable[[Path], Any], write: Write) -> Transport:
    """One after the other."""
    return Transport(lambda paths: (read(path) for path in paths), write)


@contextmanager
def overlapped(
    read: Callable[[Path], Any],
    write: Write,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Iterator[Transport]:
    """The next leaf is read, and the last one written, in threads; never more than one of each.

    precision: jax's settings belong to a thread, so a thread takes them on. What a thread raises comes up in the next
    step, at the latest when the block ends.
    """
    with ThreadPoolExecutor(1, "wspace-read") as reader, ThreadPoolExecutor(1, "wspace-write") as writer:
        last: list[Future[None]] = []

        def there(function: Callable[..., Any], *given: Any) -> Any:
            with precision():
                return function(*given)

        def reads(paths: Sequence[Path]) -> Iterator[Any]:
            ahead = [reader.submit(there, read, path) for path in paths[:1]]
            for k in range(len(paths)):
                found = ahead.pop().result()
                ahead += [reader.submit(there, read, path) for path in paths[k + 1 : k + 2]]
                yield found
                del found

        def wait() -> None:
            if last:
                last.pop().result()

        def behind(path: Path, leaf: Leaf, rows: Index | None) -> None:
            wait()
            last.append(writer.submit(there, write, path, leaf, rows))

        yield Transport(reads, behind, wait)
        wait()
