"""The student's project: what of the library the tests reach, with the holes cut out."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minipeft.course.homework import cut
from minipeft.course.homework.assignment import Assignment, Hole, Mistake, load
from minipeft.storage.files import data_dir

CHECKOUT = Path(__file__).resolve().parents[3]
KIT = Path(__file__).with_name("kit.py")
ADAPTERS = "adapters.py"
TESTED = "tests"  # the folder of the public tests
Sources = dict[str, str]  # a file's path in the tree, with slashes -> its text


# -- the sources ----------------------------------------------------------------------------------


def reference(homework: Assignment, choices: Mapping[str, int] | None = None) -> Sources:
    """The library's files that the adapters reach, and the adapters: all solved.

    choices  the class's conventions; the library's own without them
    """
    adapters = (homework.folder / ADAPTERS).read_text(encoding="utf-8")
    found: Sources = {ADAPTERS: adapters}
    left = [*_imported(adapters), *(CHECKOUT / hole.file for hole in homework.holes)]
    while left:
        file = left.pop()
        name = file.relative_to(CHECKOUT).as_posix()
        if name not in found:
            text = file.read_text(encoding="utf-8")
            for edit in (e for e in homework.always if e.file == name):
                text = cut.replace_once(text, edit.old, edit.new, name)
            found[name] = text
            left += _imported(text)
    for edit in homework.edits(homework.choices() if choices is None else choices):
        if edit.file not in found:
            raise ValueError(f"{homework.name}: a variant edits {edit.file}, which no test reaches")
        found[edit.file] = cut.replace_once(found[edit.file], edit.old, edit.new, edit.file)
    return dict(sorted(found.items()))


def _imported(text: str) -> Iterable[Path]:
    """The files of minipeft that a source imports, those of the packages around them too."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] != "minipeft":
                continue
            for i in range(1, len(parts) + 1):
                path = CHECKOUT.joinpath(*parts[:i])
                yield from (f for f in (path.with_suffix(".py"), path / "__init__.py")
                            if f.is_file())  # fmt: skip


def holed(sources: Sources, holes: Iterable[Hole]) -> Sources:
    """The sources with holes in place of these solutions."""
    found = dict(sources)
    for hole in holes:
        says = f"{hole.id}: {hole.title}"
        found[hole.file] = cut.cut(found[hole.file], hole.function, says, hole.keep)
    return found


def mistaken(sources: Sources, hole: Hole, mistake: Mistake) -> Sources:
    """The sources with one mistake in a hole."""
    made = cut.mistaken(sources[hole.file], hole.function, mistake.old, mistake.new,
                        mistake.body, hole.keep)  # fmt: skip
    return {**sources, hole.file: made}


def write(sources: Mapping[str, str], where: Path) -> None:
    """Write sources under a folder."""
    for name, text in sources.items():
        file = where / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")


# -- the student's project ------------------------------------------------------------------------

PYPROJECT = """\
[project]
name = "{name}"
version = "1"
description = "{title}"
requires-python = ">=3.11"
dependencies = [{dependencies}]

[dependency-groups]
dev = ["pytest>=8"]

[tool.uv]
package = false

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

TESTS = '''\
"""The public tests under pytest: `pytest -k hw3.1` runs those of one hole."""

import pytest

import homework


@pytest.mark.parametrize("case", homework.cases(), ids=lambda c: f"{c['hole']}-{c['name']}")
def test_case(case):
    message = homework.run(case)
    if message:
        pytest.fail(message, pytrace=False)
'''

README = """\
# {name}: {title}

Read `handout.ipynb` first: it has the questions, the equations and how you are graded.

You write these functions. Each raises NotImplementedError until you do; the handout says which
needs which:

{holes}

Everything runs from this folder. With uv, nothing else has to be installed:

```
uv run python homework.py                  # all public tests: what is done, what is wrong and why
uv run python homework.py {first}            # those of one hole
uv run python homework.py --hint {first}     # a hint; the next call gives the next one
uv run pytest                              # the same tests under pytest
uv run --with jupyter jupyter lab handout.ipynb
```

With pip: `python -m pip install {install} pytest jupyter`, then the same commands
without `uv run`, and `jupyter lab handout.ipynb`. A test that runs for 30 seconds is stopped, and
what is printed says where; grading stops it after 10.

The tests call your code through `adapters.py`, with the inputs of `tests/public`. Grading runs the
same functions on other inputs, of other shapes; it takes only {files} and the
handout from you, so changes of other files have no effect there.
"""
IGNORED = "__pycache__/\n.venv/\n.pytest_cache/\n.ipynb_checkpoints/\n.hints.json\nuv.lock\n"


def write_student(
    homework: Assignment, where: str | Path, public: Mapping[str, bytes],
    choices: Mapping[str, int], solved: Iterable[str] = (),
) -> list[str]:  # fmt: skip
    """Write the student's project into a new or empty folder.

    public  the files of tests/public, by name, as `bank.public` makes them
    solved  ids of holes that are not cut
    Returns the names of its files
    Raises  FileExistsError if the folder holds anything: work may be in it
    """
    solved = set(solved)
    sources = holed(reference(homework, choices), [h for h in homework.holes if h.id not in solved])
    needs = {"numpy>=2.0", "safetensors>=0.5"}
    if any("tokenizers" in text for name, text in sources.items() if "text.py" in name):
        needs.add("tokenizers>=0.21")
    quoted = [f'"{need}"' for need in sorted(needs)]
    files = sorted({hole.file for hole in homework.holes})
    told = {"name": homework.name, "title": homework.title}
    texts = {
        **sources,
        "pyproject.toml": PYPROJECT.format(dependencies=", ".join(quoted), **told),
        "README.md": README.format(
            **told, first=homework.holes[0].id, files=", ".join(f"`{f}`" for f in files),
            install=" ".join(q.replace(">", r">") for q in quoted),
            holes="\n".join(f"- {h.id} `{h.function}` in `{h.file}`: {h.title} "
                            f"({h.points:g} points)" for h in homework.holes),
        ),
    }  # fmt: skip
    return lay(homework, where, texts, public, choices)


def lay(
    homework: Assignment, where: str | Path, texts: Sources, public: Mapping[str, bytes],
    choices: Mapping[str, int],
) -> list[str]:  # fmt: skip
    """Write these texts, the kit, the handout and the tests, as `write_student` does."""
    where = Path(where)
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise FileExistsError(f"{where} is there and not empty: name a new folder")
    kit, test = KIT.read_text(encoding="utf-8"), f"{TESTED}/test_homework.py"
    kit = kit.replace("hw3.1", homework.holes[0].id)  # in its help
    write({**texts, "homework.py": kit, "handout.ipynb": handout(homework, choices),
           ".gitignore": IGNORED, test: TESTS}, where)  # fmt: skip
    (where / TESTED / "public").mkdir(parents=True)
    for name, data in public.items():
        (where / TESTED / "public" / name).write_bytes(data)
    for name in homework.needs:
        target = where / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir() / name, target)
    return sorted(f.relative_to(where).as_posix() for f in where.rglob("*") if f.is_file())


def handout(homework: Assignment, choices: Mapping[str, int]) -> str:
    """The handout as the student gets it: the class's conventions, no outputs."""
    notebook: dict[str, Any] = json.loads(
        (homework.folder / "handout.ipynb").read_text(encoding="utf-8")
    )
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        for name, says in homework.says(choices).items():
            text = text.replace("{{" + name + "}}", says)
        cell["source"] = text.splitlines(keepends=True)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


# -- a student's project again --------------------------------------------------------------------


def refill(homework: Assignment, where: Path, ids: Iterable[str]) -> None:
    """Put the reference's solutions into holes of a student's tree."""
    public = json.loads((where / "tests/public/homework.json").read_text(encoding="utf-8"))
    sources = reference(homework, public["choices"])
    for hole in map(homework.hole, ids):
        file = where / hole.file
        if not file.is_file():
            raise ValueError(f"{where} has no {hole.file}, where the reference could stand in")
        body = cut.body_of(sources[hole.file], hole.function, hole.keep)
        text = file.read_text(encoding="utf-8")
        try:
            filled = cut.fill(text, hole.function, body, hole.keep)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{file}: {hole.id} cannot be filled: {error}") from error
        file.write_text(filled, encoding="utf-8", newline="\n")


def public_tests(where: str | Path, hole: str = "", solved: Iterable[str] = ()) -> tuple[bool, str]:
    """Run the public tests of a student's tree in a process of its own.

    solved   ids of holes where the reference's solution stands in, in a copy
    Returns  whether all passed, and what was printed
    Raises   ValueError if the folder is no student's tree, or there is no such hole
    """
    where, solved = Path(where), list(solved)
    public = where / "tests" / "public" / "homework.json"
    if not public.is_file():
        raise ValueError(f"{where} is no student's folder: it has no tests/public/homework.json")
    with tempfile.TemporaryDirectory() as folder:
        if solved:
            name = json.loads(public.read_text(encoding="utf-8"))["name"]
            where = shutil.copytree(where, Path(folder) / "copy",
                                    ignore=shutil.ignore_patterns(".*", "__pycache__"))  # fmt: skip
            refill(load(name), where, solved)
        command = [sys.executable, "-B", "homework.py", *([hole] if hole else [])]
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, encoding="utf-8",
                              env={**os.environ, "PYTHONIOENCODING": "utf-8"})  # fmt: skip
    if not done.stdout:
        raise ValueError(done.stderr.strip().splitlines()[-1] if done.stderr else "no answer")
    return done.returncode == 0, done.stdout.rstrip()
