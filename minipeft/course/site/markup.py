"""Markdown, code and outputs as HTML: math is MathML, figures are in the page, links stay here."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

CONTENTS = "<!-- contents -->"  # where a page tells its sections
TOLD = re.compile(r"^\*Figure (\d+), in words: (.+?)\*?\s*?(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
DOLLARS = re.compile(r"(?<![\\$\w])\$(?!\s)([^$<>]+?)(?<![\s\\])\$(?![\d$])")
KINDS = ("image/png", "text/html", "text/plain")  # of an output, the best first
IMAGE = '<img alt="{}" src="data:image/png;base64,{}">'


class Markup(IPythonRenderer):
    """The markdown of one page as HTML.

    folder    that its relative links start from
    link_to   the address of a file's page, or None: the link's text then stays alone
    headings  level, id and HTML of those so far
    """

    def __init__(self, folder: Path, link_to: Callable[[Path], str | None]) -> None:
        super().__init__(escape=False)
        self.folder, self.link_to = folder, link_to
        self.headings: list[tuple[int, str, str]] = []

    def page(self, text: str) -> str:
        """Markdown as HTML."""
        return str(MarkdownWithMath(renderer=self).render(text))

    def blocks(self, cells: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        """A notebook's text, code, outputs and figures in order, each as its kind and HTML.

        A figure's alt text is the line of the notebook that tells it in words.
        """
        sources = ["".join(cell["source"]) for cell in cells]
        told = {number: plain(words) for text in sources for number, words in TOLD.findall(text)}
        figures = 0
        for cell, source in zip(cells, sources, strict=True):
            if cell["cell_type"] == "markdown":
                yield "text", CONTENTS if source.startswith("## Contents") else self.page(source)
                continue
            yield "code", self.block_code(source, "python")
            for output in cell.get("outputs", []):
                data = output.get("data") or {"text/plain": output.get("text", "")}
                image, table, text = ("".join(data.get(kind, "")) for kind in KINDS)
                if image:
                    figures += 1
                    words = escape(f"Figure {figures}: {told.get(str(figures), '')}")
                    yield "figure", IMAGE.format(words, "".join(image.split()))
                elif table:
                    made = DOLLARS.sub(lambda m: mathml(unescape(m[1])), table)
                    yield "output", wide(made)
                else:
                    yield "output", f'<pre class="out">{escape(strip_ansi(text))}</pre>'

    # what the parser of markdown calls

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """A heading with an id, as GitHub's."""
        slug = re.sub(r"[^\w\- ]", "", plain(text).lower()).strip().replace(" ", "-")
        while slug in [name for _, name, _ in self.headings]:
            slug += "-again"
        self.headings.append((level, slug, re.sub(r"</?a\b[^>]*>", "", text)))
        return f'<h{level} id="{slug}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a page of the site, or out of it."""
        path, mark, anchor = url.partition("#")
        if path and not re.match(r"\w+:", path):
            place = (self.folder / path).resolve()
            page = self.link_to(place)
            if place.exists() and page is None:
                return text
            url = f"{page or path}{mark}{anchor}"
        return str(super().link(text, url, title))

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """An image of the checkout, in the page."""
        return IMAGE.format(escape(text), b64encode((self.folder / url).read_bytes()).decode())

    def table(self, text: str) -> str:
        """A table."""
        return wide(f"<table>\n{text}</table>")

    def inline_math(self, body: str) -> str:
        """$ … $; a browser does not break it, so a long one may scroll."""
        made = mathml(body)
        return made if len(plain(made)) < 30 else f'<span class="wide line">{made}</span>'

    def block_math(self, body: str) -> str:
        """$$ … $$"""
        return f'<span class="wide">{mathml(body, "block")}</span>'


def wide(table: str) -> str:
    """A table that scrolls in itself where the page is too narrow; an empty cell heads nothing."""
    told = table.replace(
        "</math></th>", "</math>&#8203;</th>"
    )  # axe takes a lone formula for empty
    return f'<div class="wide">{re.sub("<th[^>]*></th>", "<td></td>", told)}</div>'


def mathml(tex: str, display: str = "inline") -> str:
    r"""A formula as MathML.

    Raises  ValueError that names the formula, where it cannot be converted
    """
    try:
        made = str(convert(tex.strip().replace("{aligned}", "{align*}"), display=display))
    except Exception as wrong:  # latex2mathml's errors have no common class
        raise ValueError(f"the formula ${tex}$ cannot be converted: {wrong!r}") from wrong
    if unknown := re.search(r"\\\w+|&(?=<)", made):
        raise ValueError(f"the formula ${tex}$ cannot be converted: {unknown[0]} is not known")
    return made


def plain(text: str) -> str:
    """Markdown or HTML without its marks."""
    return unescape(re.sub(r"<[^>]+>|[*`$]", "", " ".join(text.split())))
