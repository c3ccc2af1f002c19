"""A table: aligned text for a terminal, HTML for a notebook, Markdown for a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Table:
    """Rows of cells under a header.

    header   a name per column; () for a table without names
    rows     the cells of each row, one per column, as text or what str() makes text of
    align    "l" (left) or "r" (right) per column; the last letter holds for all columns after it
    title    a line above the table
    closing  a line below it
    """

    def __init__(
        self, header: Sequence[object], rows: Iterable[Sequence[object]], align: str = "l",
        title: str = "", closing: str = "",
    ) -> None:  # fmt: skip
        self.header = tuple(map(str, header))
        self.cells = [tuple(map(str, row)) for row in rows]
        self.title, self.closing = title, closing
        n = len(self.header or next(iter(self.cells), ()))
        for i, row in enumerate(self.cells):
            if len(row) != n:
                raise ValueError(f"row {i} has {len(row)} cells, not {n}: {row!r:.200}")
        if not align or set(align) - set("lr"):
            raise ValueError(f"align takes the letters l and r, got {align!r:.80}")
        self.align = (align + n * align[-1])[:n]

    def text(self) -> str:
        """Each column is as wide as its widest cell, with two blanks to the next.

        Where the last column is flush left, no line ends in blanks.
        """
        rows = [self.header] * bool(self.header) + self.cells
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                c.rjust(w) if a == "r" else c.ljust(w)
                for c, w, a in zip(row, widths, self.align, strict=True)
            )
            for row in rows
        ]
        if self.align.endswith("l"):
            lines = [line.rstrip() for line in lines]
        return "\n".join(filter(None, (self.title, "\n".join(lines), self.closing)))

    def html(self) -> str:
        """The title and the closing line are paragraphs."""

        def row(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"

        head = row(self.header, "th") if self.header else ""
        body = "".join(row(cells, "td") for cells in self.cells)
        above, below = (
            f"<p>{escape(line)}</p>" if line else "" for line in (self.title, self.closing)
        )
        return f"{above}<table>{head}{body}</table>{below}"

    def markdown(self) -> str:
        """The title and the closing line are paragraphs; a table without names has blank ones."""

        def row(cells: Iterable[str]) -> str:
            return "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"

        rule = ("---:" if a == "r" else "---" for a in self.align)
        table = "\n".join(map(row, [self.header or [""] * len(self.align), rule, *self.cells]))
        return "\n\n".join(filter(None, (self.title, table, self.closing)))

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()
