"""One value of a recipe and where it stands: typed readers that say `recipe.yml:12: path: what is wrong`.

A scalar keeps its text as written; the field that reads it decides what it is. So `1e-3` is a number where a number
is wanted, `off` is a switch where a switch is wanted, and `no` may be a name, whatever a YAML version thinks of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from wspace.core.errors import RecipeError, nearest, printable

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_DISPUTED = re.compile(  # octal, hexadecimal, binary, underscores, base 60, infinities: each YAML version reads its own
    r"[-+]?(?:0[0-9]+|0o[0-7_]+|0x[0-9a-f_]+|0b[01_]+|[0-9][0-9_]*_[0-9_.e]*|[0-9]+(?::[0-5]?[0-9])+|\.inf|\.nan)",
    re.IGNORECASE,
)
_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})


class Range(NamedTuple):
    """The numbers that a field accepts.

    >>> str(Range(0, 1, open_low=True)), 1.0 in Range(0, 1), 0.0 in Range(0, 1, open_low=True)
    ('(0, 1]', True, False)
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, (int, float)):
            return False
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below

    def __str__(self) -> str:
        low = "(-inf" if self.low == -math.inf else f"{'(' if self.open_low else '['}{self.low:g}"
        high = "inf)" if self.high == math.inf else f"{self.high:g}{')' if self.open_high else ']'}"
        return f"{low}, {high}"


ANY = Range()


@dataclass(frozen=True, eq=False)
class Node:
    """A scalar's text, a mapping or a list, with its file and line (`place`) and its dotted path in the document."""

    value: str | dict[str, Node] | list[Node]
    place: str
    path: str = ""
    quoted: bool = False

    def error(self, message: str) -> RecipeError:
        """The error to raise for this value, on one line."""
        return RecipeError(printable(": ".join(part for part in (self.place, self.path, message) if part)))

    @property
    def is_null(self) -> bool:
        return isinstance(self.value, str) and not self.quoted and self.value in _NULL

    @property
    def shown(self) -> str:
        """The value in a message: short, and plain about its kind."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        if self.is_null:
            return "nothing"
        text = self.value if len(self.value) <= 60 else self.value[:57] + "..."
        return f"the quoted text {text!r}" if self.quoted else repr(text)

    def mapping(self) -> dict[str, Node]:
        """The entries of a mapping, nulls included."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping (name: value), not {self.shown}")
        return self.value

    def fields(self, known: Iterable[str], refused: Mapping[str, str] | None = None) -> dict[str, Node]:
        """The entries of a mapping whose names are fixed; an entry with nothing after it counts as absent.

        `refused` has names that are known but not supported, each with its reason.
        """
        found, known = self.mapping(), frozenset(known)
        for name, child in found.items():
            if name in (refused or {}) and not child.is_null:
                raise child.error((refused or {})[name])
            if name not in known and name not in (refused or {}):
                parent = f" in {self.path}" if self.path else ""
                raise RecipeError(printable(f"{child.place}: unknown key {name!r}{parent}.{nearest(name, known)}"))
        return {name: child for name, child in found.items() if not child.is_null}

    def items(self) -> list[Node]:
        """The items of a list that has at least one."""
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, not {self.shown}")
        if not self.value:
            raise self.error("is an empty list")
        return self.value

    def text(self, choices: Iterable[str] | None = None) -> str:
        """A scalar as written; with `choices`, one of them."""
        if not isinstance(self.value, str) or self.is_null:
            raise self.error(f"must be text, not {self.shown}")
        if choices is not None and self.value not in (options := list(choices)):
            raise self.error(f"unknown value {self.value!r}.{nearest(self.value, options)}")
        return self.value

    def boolean(self) -> bool:
        """true or false; also the words yes, no, on, off, which YAML 1.1 reads so."""
        word = self.value.lower() if isinstance(self.value, str) and not self.quoted else ""
        if word not in _TRUE | _FALSE:
            raise self.error(f"must be true or false, not {self.shown}")
        return word in _TRUE

    def number(self, within: Range = ANY) -> float:
        """A finite number in `within`."""
        text = self._digits("a number")
        if not _NUMBER.fullmatch(text):
            raise self.error(f"must be a number, not {self.shown}")
        return self._inside(float(text), within)

    def integer(self, within: Range = ANY) -> int:
        """A whole number in `within`."""
        text = self._digits("a whole number")
        if not _INTEGER.fullmatch(text):
            raise self.error(f"must be a whole number, not {self.shown}")
        self._inside(float(text), within)
        return int(text)

    def pattern(self) -> str:
        """A regular expression that compiles."""
        text = self.text()
        try:
            re.compile(text)
        except re.error as problem:
            raise self.error(f"{text!r} is not a regular expression: {problem}") from None
        return text

    def plain(self) -> Any:
        """The value where no type is declared: None, bool, int, float, str, tuple or dict. Disputed is refused."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return tuple(child.plain() for child in self.value)
        if self.quoted:
            return self.value
        if self.is_null:
            return None
        if self.value.lower() in ("true", "false"):
            return self.boolean()
        if self.value.lower() in _TRUE | _FALSE:
            raise self.error(
                f"{self.value!r} is a switch or a word by YAML version: write true, false, or quote the word"
            )
        if _DISPUTED.fullmatch(self.value):
            self._digits("a number")
        if _INTEGER.fullmatch(self.value):
            return self.integer()
        return self.number() if _NUMBER.fullmatch(self.value) else self.value

    def _digits(self, wanted: str) -> str:
        if not isinstance(self.value, str) or self.quoted:
            unquote = ": write it without quotes" if self.quoted and _NUMBER.fullmatch(str(self.value)) else ""
            raise self.error(f"must be {wanted}, not {self.shown}{unquote}")
        if _DISPUTED.fullmatch(self.value):
            raise self.error(f"{self.value!r} is read differently by YAML versions: write {wanted} in plain digits")
        return self.value

    def _inside(self, number: float, within: Range) -> float:
        if not math.isfinite(number):
            raise self.error(f"{self.value} is too large for a number")
        if number not in within:
            raise self.error(f"{self.value} is out of range {within}")
        return number
