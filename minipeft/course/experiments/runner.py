"""Run an experiment's settings one by one, keep each outcome as it comes, and read them back.

An experiment is a list of settings and a function from one setting to its outcome. After every
run the file data/results/NAME.json is written anew, whole; a run that is in it already, made
with the same base model, is not made again. So an experiment can be stopped and resumed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import minipeft
from minipeft.display.progress import Progress
from minipeft.storage.checkpoint import fingerprint, load_model
from minipeft.storage.files import data_dir, write_atomic

Settings = dict[str, Any]  # plain values: they are written as JSON
Outcome = dict[str, Any]
BASE = "tiny-gpt"
UNKNOWN = "unknown"  # the version of code in files that do not record one
NO_OUTCOME = ("runner.py", "settings.py", "statistics.py")  # files that do not decide an outcome


@dataclass(frozen=True)
class Experiment:
    """One claim, put to the test.

    question  what the runs decide, in a sentence
    settings  fast -> the list of settings; with fast=True a few short ones
    run       one setting -> its outcome; the same setting gives the same outcome
    bases     the models that it starts from: with others, its runs are made anew
    timed     what of an outcome is measured with a clock, and another each time
    """

    name: str
    question: str
    settings: Callable[[bool], list[Settings]]
    run: Callable[[Settings], Outcome]
    bases: tuple[str, ...] = (BASE,)
    timed: tuple[str, ...] = ()


@cache
def base(name: str = BASE) -> Any:
    """A base model of the experiments, loaded once: detach what you attach to it."""
    return load_model(name)


def version_of(experiment: Experiment) -> str:
    """A digest of the code of an experiment, as Python reads it.

    That is the file of its run function and what this one imports from the course's experiments,
    but for the files in NO_OUTCOME. Comments, docstrings and imports are left out: a move or a
    comment is no other code. The rest of minipeft is not counted.
    """
    file = inspect.getsourcefile(experiment.run)
    if file is None:
        raise ValueError(f"{experiment.name}: its run function has no source file")
    found, todo = {}, [Path(file)]
    while todo:
        path = todo.pop()
        if path not in found:
            found[path], imported = _source(path)
            todo += imported
    return source_digest(*found.values())


@cache
def _source(path: Path) -> tuple[str, list[Path]]:
    """The text of a file, and the files of experiments that it imports."""
    text, folder = path.read_text(encoding="utf-8"), Path(__file__).parent
    names = [
        f"{node.module}.{name}".removeprefix(f"{__package__}.").split(".")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{__package__}.")
        for name in ("", *(alias.name for alias in node.names))
    ]
    files = {folder.joinpath(*filter(None, name)).with_suffix(".py") for name in names}
    return text, [f for f in files if f.is_file() and f.name not in NO_OUTCOME]


def source_digest(*sources: str) -> str:
    """Sixteen hex digits of the syntax trees of modules."""
    return hashlib.sha256("".join(sorted(map(_tree, sources))).encode()).hexdigest()[:16]


@cache
def _tree(source: str) -> str:
    return json.dumps(_plain(ast.parse(source)))


def _plain(node: Any) -> Any:
    """A syntax tree as lists; empty fields are left out, as Python's versions differ in them."""
    if isinstance(node, list):
        return [_plain(x) for x in node if not isinstance(x, (ast.Import, ast.ImportFrom))]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    documented = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    kept = [[name, _plain(x)] for name, x in fields.items() if x is not None and x != []]
    return [type(node).__name__, *kept]


def perform(
    experiment: Experiment, folder: Path, fast: bool = False, limit: float = math.inf
) -> Path:
    """Make all runs of an experiment that its file in `folder` lacks; returns the file.

    limit  stop after so many seconds; a later call goes on
    """
    path = folder / f"{experiment.name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    marks = fingerprints(experiment)
    version = version_of(experiment)
    done = {_key(run["settings"]): run for run in _earlier(path, marks, version)}
    wanted = experiment.settings(fast)
    todo = [s for s in wanted if _key(s) not in done]
    print(f"{experiment.name}: {len(wanted) - len(todo)} of {len(wanted)} runs are done")
    show, began = Progress(experiment.name, len(todo)), time.monotonic()
    for number, settings in enumerate(todo, 1):
        if time.monotonic() - began > limit:
            break
        start = time.process_time()
        outcome = experiment.run(settings)
        seconds = round(time.process_time() - start, 2)
        done[_key(settings)] = {"settings": settings, "outcome": outcome, "seconds": seconds}
        runs = [done[_key(s)] for s in wanted if _key(s) in done]
        _write(path, experiment, marks, version, runs, fast)
        show.update(number)
    show.done()
    return path


def fingerprints(experiment: Experiment) -> dict[str, str]:
    """Name -> fingerprint of the models that an experiment starts from."""
    return {name: fingerprint(base(name).state_dict()) for name in experiment.bases}


def _key(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True)


def _earlier(path: Path, marks: dict[str, str], version: str) -> list[dict[str, Any]]:
    """The runs of an earlier call, if they were made with these bases.

    A run that other code made says which: the file's version is that of the others.
    """
    if not path.is_file():
        return []
    known = read_results(path)
    if known["bases"] != marks:
        print(f"{path} was made with another base: starting anew")
        return []
    runs: list[dict[str, Any]] = known["runs"]
    for run in runs:
        made_by = run.pop("version", known.get("version", UNKNOWN))
        if made_by != version:
            run["version"] = made_by
    return runs


def _write(
    path: Path,
    experiment: Experiment,
    marks: dict[str, str],
    version: str,
    runs: list[Any],
    fast: bool,
) -> None:
    command = f"python -m minipeft.experiments {experiment.name}" + (" --fast" if fast else "")
    whole = {
        "name": experiment.name,
        "question": experiment.question,
        "command": command,
        "bases": marks,  # fingerprints
        "version": version,  # of the code; a run that other code made has its own
        "seeds": sorted({run["settings"].get("seed", 0) for run in runs}),
        "versions": {
            "minipeft": minipeft.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "core_type": os.environ.get("OPENBLAS_CORETYPE", "detected"),
        },
        "hours": round(math.fsum(run["seconds"] for run in runs) / 3600, 4),
    }
    head = json.dumps(whole, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(rounded(run)) for run in runs)  # a run to a line
    text = f'{head},\n "runs": [\n{lines}\n ]\n}}\n'
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def rounded(value: Any) -> Any:
    """Floats to six digits, so that the files stay small."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, (float, np.floating)) else value


# -- reading ---------------------------------------------------------------------------------------


PARTS: dict[str, Any] = {  # of a results file, and their kinds
    "name": str, "command": str, "seeds": list, "hours": (int, float), "bases": dict, "runs": list
}  # fmt: skip


def read_results(path: Path) -> dict[str, Any]:
    """What a results file says.

    Raises  ValueError that names the file and what is wrong in it
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    for part, kind in PARTS.items():
        if not isinstance(whole, dict) or not isinstance(whole.get(part), kind):
            raise ValueError(f"{path} holds no results: it has no {part!r} of the right kind")
    for i, run in enumerate(whole["runs"]):
        parts = [run.get(p) for p in ("settings", "outcome")] if isinstance(run, dict) else [None]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"{path}: run {i} lacks its settings or its outcome")
    return whole


def code_of(made_by: str) -> str:
    """The version alone, without what confirmed it."""
    return made_by.partition(",")[0]


class Results:
    """The runs of an experiment's file.

    where("accuracy", task="sentiment", r=8) -> the outcomes of those runs, in the file's order
    """

    def __init__(self, path: Path) -> None:
        whole = read_results(path)
        self.runs: list[dict[str, Any]] = whole.pop("runs")
        self.about: dict[str, Any] = whole
        self.name: str = whole["name"]

    def where(self, outcome: str, **settings: Any) -> list[Any]:
        """One outcome of all runs with these settings.

        Raises  KeyError if no run has them
        """
        wanted = json.loads(json.dumps(settings))
        found = [run["outcome"][outcome] for run in self.runs
                 if all(run["settings"].get(k) == v for k, v in wanted.items())]  # fmt: skip
        if not found:
            raise KeyError(f"{self.name} has no run with {settings}")
        return found

    def mean(self, outcome: str, **settings: Any) -> float:
        """The mean of one outcome over all runs with these settings."""
        return float(np.mean(self.where(outcome, **settings)))

    def curve(
        self, outcome: str, along: str, values: Sequence[Any], **settings: Any
    ) -> tuple[Sequence[Any], np.ndarray]:
        """(values, outcomes) along one setting, as viz.lines takes them: outcomes (runs, values)"""
        columns = [self.where(outcome, **{along: value}, **settings) for value in values]
        return values, np.array(columns).T

    @property
    def made_by(self) -> list[str]:
        """The version of the code that made each run, or "unknown".

        Where an earlier version made the runs, what follows the version says on how many of them
        it was confirmed.
        """
        whole = self.about.get("version", UNKNOWN)
        return [run.get("version", whole) for run in self.runs]

    def stale(self, version: str) -> int:
        """How many runs are known to be made by other code than this version."""
        return sum(code_of(v) not in (version, UNKNOWN) for v in self.made_by)

    def code(self, version: str) -> str:
        """In words: whether this version of the code made the runs."""
        stale, unknown = self.stale(version), self.made_by.count(UNKNOWN)
        if not stale:
            notes = sorted({note for v in self.made_by if (note := v.partition(", ")[2])})
            earlier = ", ".join(["earlier", *notes]) if notes else "today's"
            return UNKNOWN if unknown else earlier
        return f"{stale} of {len(self.runs)} runs are stale" + ", others unknown" * bool(unknown)

    @property
    def label(self) -> str:
        """What a figure made of this says below: where the numbers come from."""
        seeds = len(self.about["seeds"])
        return f"{seeds} seed{'s' * (seeds != 1)}; remake: {self.about['command']}"

    def __repr__(self) -> str:
        return f"Results({self.name}: {len(self.runs)} runs, {self.about['hours']:.2f} h)"


def results(name: str) -> Results:
    """The committed results of an experiment."""
    path = data_dir() / "results" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no results {name!r} in {path.parent}; there are: {known}")
    return Results(path)


# -- the command -----------------------------------------------------------------------------------


OTHERS = """claims             Write lectures/CLAIMS.md from the results.
confirm NAME ...   Make one stored run of each anew and compare: see confirm --help.

"""  # commands


def main(experiments: dict[str, Experiment], argv: Sequence[str] | None = None) -> int:
    """python -m minipeft.experiments NAME [--fast]"""
    import argparse
    import tempfile

    parser = argparse.ArgumentParser(
        prog="python -m minipeft.experiments",
        description="Remake the results that the lectures show.",
        epilog=OTHERS + "\n".join(f"{e.name:18s} {e.question}" for e in experiments.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*experiments, "all"], metavar="NAME", help="or: all")
    parser.add_argument("--fast", action="store_true",
                        help="a few short runs, written to a temporary folder")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder; the shipped data/results unless told")
    parser.add_argument("--limit", type=float, default=math.inf, metavar="SECONDS",
                        help="stop after so long; the same command goes on later")  # fmt: skip
    args = parser.parse_args(argv)
    temporary = Path(tempfile.mkdtemp()) if args.fast and not args.out else None
    folder = args.out or temporary or data_dir() / "results"
    for name in experiments if args.name == "all" else [args.name]:
        path = perform(experiments[name], folder, args.fast, args.limit)
        found = Results(path)
        print(f"{path}: {len(found.runs)} runs, {60 * found.about['hours']:.1f} minutes of work")
        print(f"code that made them: {found.code(version_of(experiments[name]))}")
    sys.stdout.flush()
    return 0
