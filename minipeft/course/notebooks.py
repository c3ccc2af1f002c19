"""The lectures: finding the notebooks, and opening, running or printing them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from minipeft.course.exercises import SOLVED
from minipeft.display.progress import Progress
from minipeft.engine.blas import one_thread

INSTALL = (
    "the lectures need Jupyter, and this is not installed: {}. From the checkout:\n"
    "  uv run --extra lectures minipeft lectures …\n"
    "  pip install -e '.[lectures]'"
)

NAMED = "[0-9][0-9]*_*.ipynb"  # 07_prompt.ipynb, 07b_ptuning.ipynb


def folder() -> Path:
    """The folder with the notebooks: the checkout's, or lectures/ here."""
    places = [Path(__file__).resolve().parents[2] / "lectures", Path("lectures").resolve()]
    for place in places:
        if any(place.glob(NAMED)):
            return place
    raise FileNotFoundError(
        f"no lectures found. Looked in: {', '.join(map(str, dict.fromkeys(places)))}. They are "
        "part of the checkout, not of the installed package"
    )


def listed() -> list[dict[str, Any]]:
    """Number, title and file of every lecture, in order."""
    files = sorted(folder().glob(NAMED))
    return [{"number": f.name.partition("_")[0], "title": _title(f), "file": str(f)} for f in files]


def find(number: str) -> Path:
    """The notebook of a number such as "08", "8" or "7b"."""
    there = {one["number"]: one["file"] for one in listed()}
    wanted = number.lower().zfill(3 if number[-1:].isalpha() else 2)
    if wanted not in there:
        raise ValueError(f"no lecture {number!r}; there are {', '.join(there)}")
    return Path(there[wanted])


def open_one(number: str) -> str:
    """Open a lecture in the browser, and wait until Jupyter is closed."""
    file = find(number)
    _jupyter("lab", str(file))
    return str(file)


def run_all() -> list[dict[str, Any]]:
    """Run every lecture from top to bottom in a copy, its exercises solved.

    Returns  the seconds that each took
    """
    done = []
    files = [Path(one["file"]) for one in listed()]
    show = Progress("lectures", len(files))
    with tempfile.TemporaryDirectory() as scratch:
        for i, file in enumerate(files):
            began = time.perf_counter()
            _jupyter(
                "nbconvert", "--to", "notebook", "--execute", "--output-dir", scratch, str(file),
                solved=True,
            )  # fmt: skip
            done.append({"lecture": file.stem, "seconds": time.perf_counter() - began})
            show.update(i + 1, file.stem)
    show.done()
    return done


def to_html(where: str, slides: bool = False) -> list[str]:
    """Write the course as a site: an index, every lecture with the outputs that it has, sources.

    slides  and slides of each lecture
    """
    _need("nbconvert", "latex2mathml")
    from minipeft.course.site.build import build

    return build([one["file"] for one in listed()], where, slides)


def _title(file: Path) -> str:
    """The notebook's first heading."""
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if cell["cell_type"] == "markdown" and line.startswith("# "):
                return line[2:].strip()
    return file.stem


def _need(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(INSTALL.format(" and ".join(missing)))


def _jupyter(tool: str, *arguments: str, solved: bool = False) -> None:
    """Run a tool of Jupyter, its kernels on one BLAS thread; what it prints goes to stderr.

    solved  the course's solutions stand in the exercises
    """
    _need({"lab": "jupyterlab", "nbconvert": "nbconvert"}[tool])
    command = [sys.executable, "-m", "jupyter", tool, *arguments]
    env = one_thread(os.environ) | ({SOLVED: "1"} if solved else {})
    done = subprocess.run(command, stdout=sys.stderr, env=env)
    if done.returncode:
        raise RuntimeError(f"jupyter {tool} failed with code {done.returncode}; see above")
