"""A report page: one HTML file with everything inline, that opens without a network; and the same tables as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --tint: #f6f7f9; --accent: #2457c5; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 44px 0 10px; }
p { margin: 6px 0; max-width: 75ch; }
.lead, figcaption, .note { color: var(--soft); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: left; padding: 6px 9px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--tint); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; }
figure { margin: 14px 0; }
figure svg { max-width: 100%; height: auto; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; overflow-x: auto;
      font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
details > summary { cursor: pointer; color: var(--accent); margin: 10px 0; }
"""


@dataclass(frozen=True)
class Table:
    """Cells as text; a column whose cells all start with a digit or a sign is set right. `folded` hides a long one."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False

    def html(self) -> str:
        numeric = [_numeric([row[i] for row in self.rows]) for i in range(len(self.head))]
        cells = [_row("th", self.head, numeric), *(_row("td", row, numeric) for row in self.rows)]
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        table = f'<div class="scroll"><table>{"".join(cells)}</table></div>{note}'
        return f"<details><summary>{len(self.rows)} rows</summary>{table}</details>" if self.folded else table


@dataclass(frozen=True)
class Figure:
    """An SVG drawing (text) with a caption that says what to see in it."""

    svg: str
    caption: str

    def html(self) -> str:
        return f"<figure>{self.svg}<figcaption>{escape(self.caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Text:
    """A paragraph, or code as it is."""

    text: str
    code: bool = False

    def html(self) -> str:
        return f"<pre>{escape(self.text)}</pre>" if self.code else f"<p>{escape(self.text)}</p>"


Block = Table | Figure | Text


def page(title: str, lead: str, sections: Sequence[tuple[str, Sequence[Block]]]) -> str:
    """The whole page as text."""
    body = [f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>']
    for heading, blocks in sections:
        body.append(f"<h2>{escape(heading)}</h2>{''.join(block.html() for block in blocks)}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _row(tag: str, cells: Sequence[str], numeric: Sequence[bool]) -> str:
    kinds = [' class="n"' if n else "" for n in numeric]
    return f"<tr>{''.join(f'<{tag}{k}>{escape(c)}</{tag}>' for c, k in zip(cells, kinds, strict=True))}</tr>"


def _numeric(cells: Sequence[str]) -> bool:
    return bool(cells) and all(c[:1] in "+-.0123456789" for c in cells)
