"""The site loads nothing from elsewhere, its links lead somewhere, and its figures have words.

Everything is built once; without a browser. tests/course/test_browser.py opens it in Chromium.
"""

import html
import importlib.util
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from minipeft import cli
from minipeft.course import notebooks

CHECKOUT = Path(__file__).parents[2]
LECTURES = CHECKOUT / "lectures"
COURSE = tomllib.loads((LECTURES / "paths.toml").read_text(encoding="utf-8"))
STEMS = sorted(file.stem for file in LECTURES.glob(notebooks.NAMED))
VERBATIM = {"code", "pre", "script", "style"}  # dollars in these are no math
LOADED = ("src", "srcset", "poster", "data", "background")


# -- the syllabus and the paths -------------------------------------------------------------------


def stems(path):
    return [stem for step in path["steps"] for stem in step["read"]]


def test_every_lecture_is_in_the_syllabus_and_once_in_the_term():
    (term,) = (path for path in COURSE["paths"] if path.get("term"))
    assert len(COURSE["paths"]) == 4 and len(set(stems(term))) == len(stems(term))
    assert set(STEMS) <= set(stems(term)) == set(COURSE["syllabus"])
    for path in COURSE["paths"]:
        assert set(stems(path)) <= set(stems(term)), path["name"]


def test_adapters_and_lora_come_before_prefixes_and_prompts():
    for path in COURSE["paths"]:
        order = stems(path)
        first = [order.index(s) for s in ("05_adapters", "08_lora") if s in order]
        then = [order.index(s) for s in ("06_prefix", "07_prompt", "07b_ptuning") if s in order]
        assert max(first) < min(then, default=99), path["name"]


# -- without an installation ----------------------------------------------------------------------


def test_binder_installs_the_extra_and_no_cupy():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    binder = CHECKOUT / "binder"
    assert (binder / "requirements.txt").read_text().split("\n") == ["-e .[lectures]", ""]
    needs = project["dependencies"] + project["optional-dependencies"]["lectures"]
    assert not any("cupy" in one for one in needs)
    python = re.fullmatch(r"python-(3\.\d+)\n", (binder / "runtime.txt").read_text())[1]
    assert [int(n) for n in python.split(".")] >= [
        int(n) for n in project["requires-python"].removeprefix(">=").split(".")
    ]


def test_the_readme_says_whether_there_is_a_public_address():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (LECTURES / "README.md").read_text(encoding="utf-8")
    address = project.get("urls", {}).get("Repository")
    assert (address or "It names none yet") in " ".join(readme.split())


# -- what a page may hold -------------------------------------------------------------------------


class Look(HTMLParser):
    """Collects what is wrong with a page, its ids, and where its links lead."""

    def __init__(self, text):
        super().__init__()
        self.wrong, self.ids, self.links, self.levels, self.inside = [], [], [], [], []
        self.words = self.style = ""
        self.feed(text)
        if self.levels.count(1) != 1 or self.levels[0] != 1:
            self.wrong.append(f"not one h1, at the top: {self.levels}")
        jumps = [b for a, b in zip(self.levels, self.levels[1:], strict=False) if b > a + 1]
        self.wrong += [f"a level is skipped before an h{level}" for level in jumps]
        self.wrong += [f"twice the id {name}" for name in set(self.ids) if self.ids.count(name) > 1]
        left = re.findall(r"\$[^\s$][^$]*\$|\\\(|\\\[|\\begin\{", self.words)
        self.wrong += [f"math is left: {one}" for one in left]
        self.wrong += re.findall(r"@import|url\((?!['\"]?data:).*", self.style)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in VERBATIM:
            self.inside.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "html" and not found.get("lang"):
            self.wrong.append("no lang")
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "img" and len(found.get("alt") or "") < 15:
            self.wrong.append(f"an image without words: {found.get('alt')}")
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("link", "iframe", "embed", "object", "base"):
            self.wrong.append(f"<{tag}>")
        loads = [found[name] for name in LOADED if name in found]
        self.wrong += [f"loads {one}" for one in loads if not (one or "").startswith("data:")]
        self.style += found.get("style") or ""

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, text):
        if not self.inside:
            self.words += text
        elif self.inside[-1] in ("style", "script"):
            self.style += text


def page(inside):
    return f'<html lang="en"><body><h1 id="a">T</h1>{inside}</body></html>'


@pytest.mark.parametrize(
    ("inside", "wrong"),
    [
        ('<img src="data:x" alt="Figure 1: a line that falls"><pre>$x$ url(a)</pre>', None),
        ('<p>5 $ and 6 $</p><a href="https://x.org/">a paper</a>', None),
        ('<img src="data:x" alt="">', "an image without words"),
        ('<img src="data:x">', "an image without words"),
        ('<img src="https://x.org/y.png" alt="Figure 1: a line that falls">', "loads https://x"),
        ('<script src="x.js"></script>', "loads x.js"),
        ('<link rel="stylesheet" href="x.css">', "<link>"),
        ("<style>@import 'x';</style>", "@import"),
        ("<style>a { b: url(x) }</style>", "url(x)"),
        ('<p style="b: url(//x)">', "url(//x)"),
        ("<p>a $x$ b</p>", "math is left: $x$"),
        ("<h3>t</h3>", "a level is skipped"),
        ("<h1>t</h1>", "not one h1"),
        ('<h2 id="a">t</h2>', "twice the id a"),
    ],
)
def test_what_is_wrong_is_seen(inside, wrong):
    found = Look(page(inside)).wrong
    assert found == [] if wrong is None else len(found) == 1 and wrong in found[0]


def test_a_page_without_a_language_is_seen():
    assert Look("<html><h1>a</h1></html>").wrong == ["no lang"]


# -- the site -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extra():
    """Skips where what the site needs is not there."""
    for name in ("nbconvert", "latex2mathml"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"lectures: {name} is not installed")


@pytest.fixture(scope="module")
def site(extra, tmp_path_factory):
    """Every page by its name, of the site that the command writes."""
    where = tmp_path_factory.mktemp("site")
    assert cli.main(["lectures", "--html", str(where), "--slides"]) == 0
    return {file.name: file.read_text(encoding="utf-8") for file in where.iterdir()}


def test_every_lecture_has_a_page_and_slides(site):
    assert {f"{stem}{end}.html" for stem in STEMS for end in ("", "-slides")} < set(site)
    documents = {"index.html", "README.html", "lectures-README.html", "lectures-CLAIMS.html"}
    assert documents < set(site) and "minipeft-methods-lora.py.html" in site


def test_pages_are_whole_and_load_nothing(site):
    wrong = {name: Look(text).wrong for name, text in site.items()}
    assert not any(wrong.values()), {name: w[:3] for name, w in wrong.items() if w}


def broken(pages):
    """Links within the site that lead nowhere."""
    looks = {name: Look(text) for name, text in pages.items()}
    for name, look in looks.items():
        for link in look.links:
            file, _, anchor = link.partition("#")
            if not re.match(r"https?://", link):
                there = looks.get(file or name)
                if there is None or anchor and anchor not in there.ids:
                    yield f"{name}: {link}"


def test_links_lead_somewhere(site):
    assert not list(broken(site))


def test_a_broken_link_is_seen():
    links = '<a href="#a"></a><a href="b.html#a"></a><a href="#no"></a><a href="b.html#no"></a>'
    pages = {"a.html": page(links + '<a href="c.html"></a>'), "b.html": page("")}
    assert list(broken(pages)) == ["a.html: #no", "a.html: b.html#no", "a.html: c.html"]


def test_math_and_code_and_figures_come_whole(site):
    for stem in STEMS:
        cells = json.loads((LECTURES / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
        outputs = [o for c in cells for o in c.get("outputs", [])]
        figures = sum("image/png" in o.get("data", {}) for o in outputs)
        texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        texts = re.sub(r"```.*?```|`[^`]*`", "", "\n".join(texts), flags=re.DOTALL)
        formulas = len(re.findall(r"\$\$.+?\$\$|\$[^$]+?\$", texts, re.DOTALL))
        made = site[f"{stem}.html"]
        body = made[made.index("<main") : made.index("</main>")]
        in_contents = sum(nav.count("<math") for nav in re.findall(r"<nav.*?</nav>", body, re.S))
        assert body.count("<math") - in_contents == formulas, stem
        assert body.count("<img") == figures and body.count('alt="Figure ') == figures, stem
        assert body.count("<details>") == texts.count("<details>"), stem
        first = next("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        assert re.sub(r"<[^>]+>", "", body).count(first.splitlines()[0]) >= 1, stem


def test_next_goes_through_the_term(site):
    (term,) = (path for path in COURSE["paths"] if path.get("term"))
    order = [stem for stem in stems(term) if stem in STEMS]
    walked, here = [order[0]], order[0]
    while following := re.search(r'rel="next" href="(.*?)\.html"', site[f"{here}.html"]):
        here = following[1]
        walked.append(here)
        back = re.search(r'rel="prev" href="(.*?)\.html"', site[f"{here}.html"])
        assert back[1] == walked[-2]
    assert walked == order


def test_the_index_has_the_paths_and_the_syllabus(site):
    for path in COURSE["paths"]:
        assert f">{path['name']}</h2>" in site["index.html"]
    for stem in STEMS:
        assert site["index.html"].count(f'href="{stem}.html"') >= 2


# -- a site of one lecture ------------------------------------------------------------------------


@pytest.fixture
def one(extra, tmp_path, monkeypatch):
    """A checkout with one lecture; write(cells) fills it, and gives the page and the others."""
    folder = tmp_path / "checkout" / "lectures"
    folder.mkdir(parents=True)
    monkeypatch.setattr(notebooks, "folder", lambda: folder)

    def write(*cells, **more):
        made = [{"cell_type": "markdown", "source": "# A title"}]
        for cell in cells:
            text = {"cell_type": "markdown", "source": cell}
            made.append(text if isinstance(cell, str) else {"cell_type": "code", **cell})
        (folder / "08_x.ipynb").write_text(json.dumps({"cells": made}), encoding="utf-8")
        notebooks.to_html(str(tmp_path / "web"), **more)
        return (tmp_path / "web" / "08_x.html").read_text(encoding="utf-8")

    return write


def shown(**data):
    return {
        "output_type": "display_data",
        "data": {k.replace("_", "/"): v for k, v in data.items()},
    }


def test_math_in_text_and_in_outputs_but_not_in_code(one):
    table = shown(text_html="<table><tr><td>$\\theta_1$ 5 $ 6 $</td></tr></table>", text_plain="t")
    text = {"name": "stdout", "text": ["\x1b[31m$z$\x1b[0m <b>"]}
    made = one("$a<b$ `$x$`\n\n$$\\frac{1}{2}$$", {"source": "y = '$x$'", "outputs": [table, text]})
    assert made.count("<math") == 3 and "5 $ 6 $" in made
    assert "<code>$x$</code>" in made and "y = '$x$'" in html.unescape(
        re.sub("</?span[^>]*>", "", made)
    )
    assert '<pre class="out">$z$ &lt;b&gt;</pre>' in made


def test_aligned_lines_and_equal_headings(one):
    made = one("$$\\begin{aligned}a &= b \\\\ c &= d\\end{aligned}$$", "## S", "## S\n\n### S")
    assert made.count("<mtr") == 2 and not Look(made).wrong
    assert re.findall(r'<h\d id="(.*?)"', made) == ["a-title", "s", "s-again", "s-again-again"]


def test_an_empty_cell_heads_nothing(one):
    head = "<table><tr><th></th><th>b</th></tr></table>"
    made = one("||b|\n|--|:-:|\n|1|2|", {"source": "t", "outputs": [shown(text_html=head)]})
    assert made.count("<td></td>") == 2 and "<th></th>" not in made


@pytest.mark.parametrize("tex", [r"\wrong x", "{", "a & b"])
def test_a_formula_that_cannot_be_converted_is_named_and_nothing_is_written(one, tex, tmp_path):
    with pytest.raises(ValueError) as told:
        one(f"a ${tex}$")
    assert f"the formula ${tex}$ cannot be converted" in str(told.value)
    assert not (tmp_path / "web").exists()


def test_a_figure_has_its_words_and_a_solution_stays_folded(one):
    figure = {"source": "plt.show()", "outputs": [shown(image_png="AA\nAA")]}
    told = '*Figure 1, in words: a `line`\nwith $x$ "up"*\n\nText *more*.'
    made = one(
        figure,
        told,
        "<details>\n<summary>Solution</summary>\n\n```python\nx = 1\n```\n\n</details>",
    )
    assert (
        '<img alt="Figure 1: a line with x &quot;up&quot;" src="data:image/png;base64,AAAA">'
        in made
    )
    assert re.search(r"<details>\s*<summary>Solution</summary>.*</pre>.*</details>", made, re.S)


def test_what_else_is_in_the_folder_stays(one, tmp_path):
    web = tmp_path / "web"
    (web / "own").mkdir(parents=True)
    (web / "mine.html").write_text("mine")
    (web / "08_x.html").write_text("old")
    assert "A title" in one("text")
    assert {f.name for f in web.iterdir()} == {"own", "mine.html", "08_x.html", "index.html"}
    assert (web / "mine.html").read_text() == "mine"


def test_json_gives_the_files_the_index_first(one, tmp_path, capsys):
    one("text")
    capsys.readouterr()
    assert cli.main(["lectures", "--html", str(tmp_path / "web"), "--slides", "--json"]) == 0
    files = [Path(file).name for file in json.loads(capsys.readouterr().out)]
    assert files == ["index.html", "08_x.html", "08_x-slides.html"]


def test_links_to_files_become_pages(one, tmp_path):
    root = tmp_path / "checkout"
    (root / "src").mkdir()
    (root / "src" / "__init__.py").write_text("# $x$\nx = 1 < 2\n")
    (root / "src" / "a.md").write_text("# A\n\n[b](b.bin) [up](../../secret.txt)\n\n## S\n")
    (root / "src" / "b.bin").write_bytes(b"\0")
    (tmp_path / "secret.txt").write_text("no")
    made = one("[dir](../src) [md](../src/a.md#s) [none](../gone.py) [p](https://x.org/a.pdf)")
    web = {f.name: f.read_text() for f in (tmp_path / "web").iterdir()}
    assert 'href="src-__init__.py.html">dir' in made and 'href="src-a.html#s">md' in made
    assert 'href="https://x.org/a.pdf">p' in made and 'href="../gone.py">none' in made
    assert set(web) == {"index.html", "08_x.html", "src-__init__.py.html", "src-a.html"}
    assert "b.bin" not in web["src-a.html"] and "secret" not in web["src-a.html"]
    assert not Look(web["src-__init__.py.html"]).wrong
    assert list(broken(web)) == ["08_x.html: ../gone.py"]


def test_badges_name_the_public_address_or_are_left_out(one, tmp_path):
    assert "Binder" not in one("text")
    urls = '[project.urls]\nRepository = "https://github.com/some/where/"\n'
    (tmp_path / "checkout" / "pyproject.toml").write_text(urls)
    made = one("text")
    assert 'href="https://mybinder.org/v2/gh/some/where/HEAD?labpath=lectures/08_x.ipynb"' in made
    assert "research.google.com/github/some/where/blob/HEAD/lectures/08_x.ipynb" in made
    assert "pip install git+https://github.com/some/where<" in made


def test_a_file_in_the_folders_place_is_an_error(one, tmp_path, capsys):
    (tmp_path / "web").write_text("a file")
    with pytest.raises(FileExistsError):
        one("text")
    assert cli.main(["lectures", "--html", str(tmp_path / "web")]) == 1
    assert "web" in capsys.readouterr().err and (tmp_path / "web").read_text() == "a file"


# -- slides ---------------------------------------------------------------------------------------


def test_a_slide_is_a_heading_or_follows_an_output(one, tmp_path):
    drawn = {"source": "draw()", "outputs": [shown(image_png="AA")]}
    printed = {"source": "print(1)", "outputs": [{"name": "stdout", "text": "1"}]}
    cells = [
        "## 1. A\n\ntext",
        drawn,
        "*Figure 1, in words: the line goes up.*\n\nmore",
        "Predict.",
        printed,
    ]
    cells += ["so", "## 2. $b$\n\nend", printed, "a comment\n\n## 3. C", drawn, "on", printed]
    one(*cells, "at last", slides=True)
    made = (tmp_path / "web" / "08_x-slides.html").read_text(encoding="utf-8")
    slides = re.findall(r"<section.*?</section>", made, re.S)
    heads = [re.search(r"<(?:h\d|p class=.section)[^>]*>(.*?)</", s)[1] for s in slides]
    assert [head[:2] for head in heads] == ["A ", "1.", "1.", "2.", "3.", "3."]
    assert "The code that draws it" in slides[1] and "more" in slides[1]
    assert "Predict." in slides[2] and "so" in slides[2] and "<details>" not in slides[2]
    assert "a comment" in slides[3] and ">on<" in slides[5] and "at last" in slides[5]
    assert 'aria-label="Slide 4 of 6"' in slides[3]
    assert Look(made).wrong == ["an image without words: Figure 2: "]  # the second has none here
