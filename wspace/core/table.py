"""A head and rows of text as a table, for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Cells = Sequence[Sequence[str]]


def text(title: str, head: Sequence[str], rows: Cells) -> str:
    """Title and table in columns.

    >>> print(text("two", ("a", "b"), [("1", "2"), ("30", "4")]))
    two
    a   b
    1   2
    30  4
    """
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([title, *lines])


def html(title: str, head: Sequence[str], rows: Cells) -> str:
    """The same as HTML.

    >>> html("<", ("a",), [("1",)])
    '<p>&lt;</p><table><tr><th>a</th></tr><tr><td>1</td></tr></table>'
    """
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<p>{escape(title)}</p><table><tr>{top}</tr>{body}</table>"


def number(x: float | None, digits: int = 3) -> str:
    """A number that may be undefined.

    >>> number(0.123456), number(None)
    ('0.123', '-')
    """
    return "-" if x is None else f"{x:.{digits}g}"
