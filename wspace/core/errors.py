"""One family of exceptions: every message is one line that says what, where, what was wanted, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHOWN = 20  # mismatches listed in one message before "and N more"


class WspaceError(ValueError):
    """A user's error: bad input, a bad recipe, a bad file. The command line prints it without a traceback."""


class TreeMismatch(WspaceError):
    """Two trees that must be aligned are not: other keys, other shapes, other integer leaves."""


class ShapeError(WspaceError):
    """A leaf's shape does not fit what a transform was asked to do."""


class SideTreeError(WspaceError):
    """A side tree (base, gram, fisher, ...) is missing or not aligned with the parameters."""


class SelectionError(WspaceError):
    """A selector matched nothing, or a leaf matched no rule."""


class FormatError(WspaceError):
    """A file is not what it claims to be."""


class IntegrityError(WspaceError):
    """A file changed: its bytes differ from the digest in its manifest, or from what they were when the run began."""


class NonFinite(WspaceError):
    """NaN or infinity where numbers were wanted."""


class RecipeError(WspaceError):
    """A recipe has an unknown key, a bad value, or names something that does not exist."""


class TooLarge(WspaceError):
    """A leaf does not fit into the memory that a run may take."""


class MissingExtra(WspaceError):
    """An optional dependency is not installed; the message has the command that installs it."""


def printable(text: object) -> str:
    """Text safe to print: control characters, NUL and escapes become visible; other unicode stays.

    >>> printable("a\\x1b[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def listed(items: Iterable[object], most: int = SHOWN) -> str:
    """The first items, comma-separated, then "and N more".

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    every: Sequence[str] = [printable(i) for i in items]
    text = ", ".join(every[:most])
    return f"{text} and {len(every) - most} more" if len(every) > most else text


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest of the choices, else the choices themselves."""
    from difflib import get_close_matches

    options = sorted(choices)
    near = get_close_matches(word, options, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {listed(options)}."
