"""Writing the site: an index with the syllabus and the paths, a page for each file, slides."""

from __future__ import annotations

import json
import re
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from minipeft.course.site.markup import CONTENTS, Markup, plain
from minipeft.display.progress import Progress
from minipeft.storage.files import write_atomic

HERE = Path(__file__).parent
DOCUMENTS = ("README.md", "lectures/README.md", "lectures/CLAIMS.md", "lectures/METHODS.md")
SHOWN = (".ipynb", ".md", ".py", ".toml", ".txt")  # what gets a page where one links to it
HEADS = re.compile(r"(?=<h[1-3] id=)")
DRAWN = ("output", "figure")
KEPT = ("<p><em>Figure", "<details>")  # text that stays on the slide of the output above it
FOLDED = "<details>\n<summary>The code that draws it</summary>\n{}</details>"


class Site:
    """The pages of a checkout; a file that a page links to becomes one more.

    paths     ways through the course, each with its steps; syllabus: lecture -> what it is about
    lectures  the notebooks, in the order of the term
    address   the checkout's public address, or ""
    """

    def __init__(self, lectures: list[str]) -> None:
        found = [Path(file).resolve() for file in lectures]
        self.folder, self.root = found[0].parents[:2]
        course, project = _toml(self.folder / "paths.toml"), _toml(self.root / "pyproject.toml")
        self.paths, self.syllabus = course.get("paths", []), course.get("syllabus", {})
        steps = [step for path in self.paths if path.get("term") for step in path["steps"]]
        term = [stem for step in steps for stem in step["read"]]
        self.lectures = sorted(found, key=lambda f: [*term, f.stem].index(f.stem))
        self.files = [*self.lectures, *filter(Path.is_file, map(self.root.joinpath, DOCUMENTS))]
        self.address = project.get("project", {}).get("urls", {}).get("Repository", "").rstrip("/")

    def link_to(self, place: Path) -> str | None:
        """The name of a file's page; a folder has that of the file that tells of it."""
        inside = (place, place / "README.md", place / "__init__.py")
        file = next((f for f in inside if f.is_file()), place)
        if not file.is_file() or file.suffix not in SHOWN or not file.is_relative_to(self.root):
            return None
        if file not in self.files:
            self.files.append(file)
        return self.name(file)

    def name(self, file: Path) -> str:
        """Of a lecture 08_lora.html; of another file its path, as in minipeft-checks.py.html."""
        parts = (file.stem,) if file in self.lectures else file.relative_to(self.root).parts
        return "-".join(parts).removesuffix(".md") + ".html"

    def page(self, file: Path) -> dict[str, Any]:
        """A notebook, a document or a source: its title, blocks and headings."""
        markup, text = Markup(file.parent, self.link_to), file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            blocks = list(markup.blocks(json.loads(text)["cells"]))
        elif file.suffix == ".md":
            blocks = [("text", markup.page(text).replace("<h2", f"{CONTENTS}<h2", 1))]
        else:
            title = markup.heading(str(file.relative_to(self.root)), 1)
            blocks = [("text", title), ("code", markup.block_code(text, file.suffix[1:]))]
        title = next((plain(told) for level, _, told in markup.headings if level == 1), file.stem)
        return {"file": file, "title": title, "blocks": blocks, "headings": markup.headings}


def build(lectures: list[str], where: str, slides: bool = False) -> list[str]:
    """Write the course's pages, and slides of each lecture if wanted; what else is there stays."""
    site = Site(lectures)
    intro = Markup(site.folder, site.link_to)
    told = {t["text"]: intro.page(t["text"]) for p in site.paths for t in (p, *p["steps"])}
    pages: dict[Path, dict[str, Any]] = {}
    show = Progress("pages", len(site.files))
    for file in site.files:  # grows while pages link to more
        pages[file] = site.page(file)
        show.total = len(site.files)
        show.update(len(pages), file.name)
    show.done()
    engine = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    engine.globals |= {"site": site, "pages": pages, "slides": slides, "deck": deck}
    made = {"index.html": engine.get_template("index.html").render(told=told)}
    for file, page in pages.items():
        made[site.name(file)] = engine.get_template("page.html").render(page)
        if slides and file in site.lectures:
            made[f"{file.stem}-slides.html"] = engine.get_template("slides.html").render(page)
    Path(where).mkdir(parents=True, exist_ok=True)
    for name, html in made.items():
        write_atomic(Path(where, name), partial(Path.write_text, data=html, encoding="utf-8"))
    return [str(Path(where, name)) for name in made]


def deck(blocks: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """A lecture's slides: the section that each goes on with, or "", and its pieces.

    A slide begins with each heading, and where code, or text that leads to code, follows an output.
    Code that draws is folded.
    """
    parts = [(kind, p) for kind, html in blocks for p in re.split(HEADS, html) if p.strip()]
    slides: list[tuple[str, list[str]]] = []
    section, last = "", ""
    for i, (kind, part) in enumerate(parts):
        heading = re.match(r"<h[1-3] id=[^>]*>(.*?)</h", part)
        leads_to = next((k for k, p in parts[i:] if k != "text" or HEADS.match(p)), "")
        again = last in DRAWN and leads_to == "code" and not part.startswith(KEPT)
        if heading or again or not slides:
            slides.append(("" if heading else section, []))
        section, pieces = heading[1] if heading else section, slides[-1][1]
        if kind == "figure" and last == "code":
            pieces[-1] = FOLDED.format(pieces[-1])
        pieces.append(part)
        last = last if part.startswith(KEPT) else kind
    return slides


def _toml(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
