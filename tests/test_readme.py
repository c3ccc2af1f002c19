"""The README keeps its word: its example prints what it says, what it names is there."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from minipeft import cli

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    page.relative_to(CHECKOUT).as_posix()
    for pattern in ("*.md", "data/*.md", "lectures/*.md", "lectures/*.ipynb")
    for page in CHECKOUT.glob(pattern)
)
PART = re.compile(r"(?<![\w./{}-])(?:\w+/)*\w+\.py\b")  # a file of code, as texts name it
NUMBER = re.compile(r"\d+(?:\.\d+)?")
ROW = re.compile(r"^\| (\[.*\)) \| ([\d ]+) \| .* \|$", re.MULTILINE)
POINTS = 6.0  # by which accuracies may differ between processors


def block(name):
    """The fenced text behind a mark."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, f"README has no block {name}"
    return found[1]


def prose(page):
    """The Markdown of a page: of a notebook, that of its cells."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    if page.endswith(".md"):
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def test_the_pages_are_found():
    assert {"README.md", "CHANGELOG.md", "data/README.md", "lectures/08_lora.ipynb"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    here = (CHECKOUT / page).parent
    links = re.findall(r"\]\(([^)#]+)\)", prose(page))
    local = [link for link in links if not link.startswith("http")]
    assert not [link for link in local if not (here / link).exists()]


def test_no_text_names_a_file_that_is_gone():
    folders = (CHECKOUT / "minipeft", CHECKOUT / "tests")
    code = [
        f"/{file.relative_to(CHECKOUT).as_posix()}" for f in folders for file in f.rglob("*.py")
    ]
    texts = {page: prose(page) for page in PAGES if page != "CHANGELOG.md"}  # which tells of then
    for file in (CHECKOUT / "minipeft").rglob("*.py"):
        texts[file.relative_to(CHECKOUT).as_posix()] = file.read_text(encoding="utf-8")
    named = {(page, name) for page, text in texts.items() for name in PART.findall(text)}
    assert len(named) > 40
    assert not [one for one in named if not any(path.endswith(f"/{one[1]}") for path in code)]


def test_the_tree_counts_its_lines():
    rows = ROW.findall(README)
    assert len(rows) > 15
    for cell, told in rows:
        paths = [CHECKOUT / link for link in re.findall(r"\]\(([^)]+)\)", cell)]
        files = [f for p in paths for f in (p.rglob("*.py") if p.is_dir() else [p])]
        lines = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files)
        told = int(told.replace(" ", ""))
        assert abs(told - lines) <= 30 + 0.3 * lines, f"{cell} has {lines} lines, README: {told}"


def ran(code, folder):
    """What a script prints, run as a reader would."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    return done.stdout


EXAMPLES = {
    "example": "printed",
    "own data": "own data printed",
    "own method": "own method printed",
}


def test_every_block_of_python_is_run():
    assert README.count("```python") == len(EXAMPLES)
    assert len(block("example").splitlines()) <= 16


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(tmp_path, name):
    """In short, to the words that it prints; all of it is run in CI."""
    code = re.sub(r"\bsteps=\d+", "steps=2", re.sub(r"\bn=\d+", "n=8", block(name)))
    assert code.count("steps=2,") == 1
    got, shown = ran(code, tmp_path), block(EXAMPLES[name])
    if name == "own data":  # it ends with what the model has learnt
        got, shown = (text.partition(" Welcome: ")[0] for text in (got, shown))
    assert NUMBER.sub("#", got) == NUMBER.sub("#", shown)
    for a, b in zip(NUMBER.findall(got), NUMBER.findall(shown), strict=True):
        assert a == b or "." in b


@pytest.mark.full
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_prints_what_is_shown(tmp_path, name):
    got, shown = ran(block(name), tmp_path), block(EXAMPLES[name])
    assert NUMBER.sub("#", got) == NUMBER.sub("#", shown)
    for a, b in zip(NUMBER.findall(got), NUMBER.findall(shown), strict=True):
        assert a == b if "." not in b else abs(float(a) - float(b)) <= POINTS


def test_the_file_of_own_rows_is_the_list_and_its_commands_run(tmp_path, capsys, monkeypatch):
    scope = {}
    exec(block("own data").partition("task = ")[0], scope)  # noqa: S102
    lines = ["prompt,target", *(f'{prompt},"{target}"' for prompt, target in scope["pairs"])]
    shown = block("guests.csv").splitlines()
    assert lines[: len(shown)] == shown and len(shown) > 2
    monkeypatch.chdir(tmp_path)
    Path("guests.csv").write_text("\n".join(lines), encoding="utf-8")
    commands = [line for line in README.splitlines() if "guests" in line and " minipeft " in line]
    assert len(commands) == 2
    for line in commands:
        words = shlex.split(line.replace("--steps 60", "--steps 2"))[3:]
        assert cli.main(words) == 0
    assert "\ntuned      " in capsys.readouterr().out.partition("\nprompt     Guest: Paula")[2]


def test_the_table_is_one_that_compare_prints():
    from minipeft.course.compare import BASE, DEFAULT, as_text

    row = {"trainable": 1, "percent": 1.0, "score_mean": 1.0, "score_std": 1.0, "peak_bytes": 1,
           "steps_to_95": 1, "step_seconds": 1.0, "forgetting": 1.0}  # fmt: skip
    lines = block("compare").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("method"))
    head = as_text([row | {"method": BASE}], "accuracy").splitlines()[0]
    assert lines[start].split() == head.split()
    assert [line.split()[0] for line in lines[start + 1 :]][: len(DEFAULT) + 1] == [BASE, *DEFAULT]


def test_the_commands_exist():
    told = re.findall(r"(?:uv run |`)(?:--extra lectures )?minipeft ([^`\n#]+)", README)
    assert len(told) > 6
    for line in told:
        words = shlex.split(line.partition("&&")[0])
        if words not in (["--help"], ["compare", "draws"]):
            assert cli._parser().parse_args(words).command == words[0]


def shipped():
    """(file or pattern, SHA-256 or nothing) of every row of data/README.md."""
    text = (CHECKOUT / "data" / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \| [^|]* \|\s*`?(\w*)`?\s*\| `[^|]+` \|$", text, re.MULTILINE)


def test_every_shipped_file_is_told_of():
    files = [f for f in (CHECKOUT / "data").rglob("*") if f.is_file() and f.name != "README.md"]
    names = [f.relative_to(CHECKOUT / "data").as_posix() for f in files]
    untold = [n for n in names if not any(fnmatchcase(n, pattern) for pattern, _ in shipped())]
    assert not untold and sum(f.stat().st_size for f in files) < 25e6


def test_checksums_are_those_of_the_files():
    sums = {name: digest for name, digest in shipped() if digest}
    assert set(sums) >= {"tokenizer.json", "models/tiny-gpt.safetensors"}
    for name, digest in sums.items():
        assert hashlib.sha256((CHECKOUT / "data" / name).read_bytes()).hexdigest() == digest, name
