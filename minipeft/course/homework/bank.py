"""What is asked and what is right: inputs, wanted results, and what the usual mistakes give.

The reference and each mistake run in processes of their own, on trees of their own, through the
same adapters as a student's code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError

from minipeft.course.homework import kit, tree
from minipeft.course.homework.assignment import Assignment, Case, Hole
from minipeft.course.homework.draw import Draw
from minipeft.course.homework.own import stubs
from minipeft.engine.blas import one_thread
from minipeft.storage.files import write_atomic

PUBLIC_SEEDS = ("1", "2", "3")
EDGE = "edge"  # a seed that begins so draws the smallest sizes
Values = dict[str, Any]

ANSWER = """
import struct, sys, traceback
sys.path.insert(0, sys.argv[1])
import homework, adapters
def read(n):
    data = sys.stdin.buffer.read(n)
    return data if len(data) == n else sys.exit()
answers = sys.stdout.buffer
sys.stdout = sys.stderr
while True:
    values = homework.unpack(read(struct.unpack("<Q", read(8))[0]))
    name = values.pop("case")
    try:
        data = homework.pack({"/" + k: v for k, v in getattr(adapters, name)(**values).items()})
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
        data = homework.pack({"error": text})
    answers.write(struct.pack("<Q", len(data)) + data)
    answers.flush()
"""


@dataclass(frozen=True)
class Ask:
    """One call of a hole's case."""

    hole: Hole
    case: Case
    seed: str
    inputs: Values

    @property
    def name(self) -> str:
        return f"{self.hole.id} {self.case.name}"


@dataclass(frozen=True)
class Known:
    """What is right for one Ask, and what each usual mistake gives."""

    ask: Ask
    want: Values
    mistakes: tuple[tuple[str, Values], ...] = ()


@dataclass(frozen=True)
class Bank:
    """All that a grader knows of an assignment under a class's conventions.

    sources  the class's starter code, cut; of an engine of one's own the adapters alone
    """

    homework: Assignment
    choices: Mapping[str, int]
    sources: Mapping[str, str]
    visible: tuple[Known, ...]
    hidden: tuple[Known, ...]

    @property
    def own(self) -> bool:
        """Whether students bring an engine of their own."""
        return not any(name.startswith("minipeft/") for name in self.sources)

    @property
    def digest(self) -> str:
        """Changes with every input and wanted result."""
        made = hashlib.sha256()
        for known in (*self.visible, *self.hidden):
            made.update(known.ask.case.name.encode())
            made.update(kit.pack({**known.ask.inputs, **{f"/{k}": v for k, v in known.want.items()},
                                  "points": known.ask.case.points}))  # fmt: skip
        made.update(json.dumps(dict(self.sources)).encode())
        return made.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write all but the assignment to a file, for a machine without the solutions."""
        values: Values = {"choices": json.dumps(self.choices), "sources": json.dumps(self.sources)}
        told = []
        for i, known in enumerate((*self.visible, *self.hidden)):
            parts = {"in": known.ask.inputs, "want": known.want}
            parts |= {f"wrong{j}": wrong for j, (_, wrong) in enumerate(known.mistakes)}
            values |= {f"{i}/{part}/{k}": v for part, of in parts.items() for k, v in of.items()}
            told.append([known.ask.case.name, known.ask.seed, [m for m, _ in known.mistakes]])
        values["known"] = json.dumps([len(self.visible), told])
        write_atomic(path, lambda file: file.write_bytes(kit.pack(values)))

    @staticmethod
    def load(homework: Assignment, path: str | Path) -> Bank:
        """Raises  ValueError if it is no bank of this assignment"""
        try:
            values = kit.unpack(Path(path).read_bytes())
            visible, told = json.loads(values["known"])
            cases = {case.name: (hole, case) for hole, case in homework.cases()}
            found = []
            for i, (name, seed, messages) in enumerate(told):
                ask = Ask(*cases[name], seed, kit.under(values, f"{i}/in/"))
                wrong = [(m, kit.under(values, f"{i}/wrong{j}/")) for j, m in enumerate(messages)]
                found.append(Known(ask, kit.under(values, f"{i}/want/"), tuple(wrong)))
            choices, sources = json.loads(values["choices"]), json.loads(values["sources"])
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"{path} is no bank of {homework.name}: {error}") from error
        return Bank(homework, choices, sources, tuple(found[:visible]), tuple(found[visible:]))


def make(homework: Assignment, seed: str, choices: Mapping[str, int], own: bool = False) -> Bank:
    """The bank of one grading.

    seed  the instructor's secret: who knows it knows the inputs
    own   whether students bring an engine of their own
    """
    visible = asks(homework, [f"{seed}/visible/{i}" for i in range(2)])
    hidden = asks(homework, [*(f"{seed}/hidden/{i}" for i in range(3)), f"{EDGE}/{seed}"])
    found = known(homework, choices, [*visible, *hidden])
    sources = tree.reference(homework, choices)
    sources = stubs(homework, sources) if own else tree.holed(sources, homework.holes)
    return Bank(homework, dict(choices), sources, found[: len(visible)], found[len(visible) :])


def asks(homework: Assignment, seeds: Iterable[str]) -> list[Ask]:
    """Draw the inputs of every case for each seed."""
    made = cases_of(homework)
    found = []
    for hole, case in homework.cases():
        function = getattr(made, case.name, None)
        if function is None:
            raise ValueError(f"{made.__file__} has no function {case.name!r}, which the toml names")
        found += [Ask(hole, case, seed, function(Draw(seed, case.name, seed.startswith(EDGE))))
                  for seed in seeds]  # fmt: skip
    return found


def cases_of(homework: Assignment) -> ModuleType:
    """The module cases.py of an assignment."""
    spec = importlib.util.spec_from_file_location("cases", homework.folder / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def known(
    homework: Assignment, choices: Mapping[str, int], asked: Sequence[Ask]
) -> tuple[Known, ...]:
    """The wanted results, and those of each mistake in a case's own hole.

    Raises  RuntimeError if the reference fails: the assignment is wrong then
    """
    sources = tree.reference(homework, choices)
    wants = answers(sources, asked)
    for ask, want in zip(asked, wants, strict=True):
        if isinstance(want, str):
            raise RuntimeError(f"the reference fails {ask.name}: {want}")
    wrong: dict[int, list[tuple[str, Values]]] = {i: [] for i in range(len(asked))}
    for hole in homework.holes:
        mine = [i for i, ask in enumerate(asked) if ask.hole is hole]
        for mistake in hole.mistakes:
            if not mistake.fits(choices):
                continue
            made = tree.mistaken(sources, hole, mistake)
            for i, got in zip(mine, answers(made, [asked[i] for i in mine]), strict=True):
                if not isinstance(got, str):
                    wrong[i].append((mistake.message, got))
    return tuple(Known(ask, want, tuple(wrong[i]))  # type: ignore[arg-type]
                 for i, (ask, want) in enumerate(zip(asked, wants, strict=True)))  # fmt: skip


def answers(sources: tree.Sources, asked: Sequence[Ask]) -> list[Values | str]:
    """What trusted sources answer, each in turn; an error as its text."""
    with tempfile.TemporaryDirectory() as folder:
        tree.write({**sources, "homework.py": tree.KIT.read_text(encoding="utf-8")}, Path(folder))
        asking = b"".join(_framed({**ask.inputs, "case": ask.case.name}) for ask in asked)
        done = subprocess.run(
            [sys.executable, "-B", "-c", ANSWER, folder], input=asking, capture_output=True,
            env=one_thread(os.environ), cwd=folder,
        )  # fmt: skip
    found: list[Values | str] = []
    left = done.stdout
    for ask in asked:
        if len(left) < 8:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"{ask.name}: no answer. {' '.join(last)}")
        n = int.from_bytes(left[:8], "little")
        values = kit.unpack(left[8 : 8 + n])
        left = left[8 + n :]
        error = values.get("error")
        found.append(error if error else {k[1:]: v for k, v in values.items()})
    return found


def _framed(values: Values) -> bytes:
    data = kit.pack(values)
    return len(data).to_bytes(8, "little") + data


# -- the student's public tests -------------------------------------------------------------------


def public(
    homework: Assignment, choices: Mapping[str, int], seeds: Sequence[str] = PUBLIC_SEEDS
) -> dict[str, bytes]:
    """The files of a student's tests/public: inputs, wanted results, the mistakes' messages."""
    found = known(homework, choices, asks(homework, seeds))
    messages = {hole.id: list(dict.fromkeys(m.message for m in hole.mistakes if m.fits(choices)))
                for hole in homework.holes}  # fmt: skip
    stored: dict[str, Values] = {case.name: {} for _, case in homework.cases()}
    for one in found:
        into, seed = stored[one.ask.case.name], one.ask.seed
        into.update({f"{seed}/in/{k}": v for k, v in one.ask.inputs.items()})
        into.update({f"{seed}/want/{k}": v for k, v in one.want.items()})
        for message, wrong in one.mistakes:
            i = messages[one.ask.hole.id].index(message)
            into.update({f"{seed}/wrong{i}/{k}": v for k, v in wrong.items()})
    told = {
        "name": homework.name,
        "title": homework.title,
        "choices": dict(choices),
        "holes": [{"id": h.id, "at": h.at, "keep": h.keep, "title": h.title,
                   "hints": list(h.hints), "mistakes": messages[h.id]} for h in homework.holes],
        "cases": [{"hole": h.id, "name": c.name, "points": c.points, "tol": c.tol,
                   "seeds": list(seeds)} for h, c in homework.cases()],
        "questions": [vars(q) for q in homework.questions],
    }  # fmt: skip
    text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
    files = {f"{name}.safetensors": kit.pack(values) for name, values in stored.items()}
    return {"homework.json": text.encode(), **files}
