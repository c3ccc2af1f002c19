"""An assignment: what its folder's assignment.toml says, checked."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipeft.checks import nearest

TOLERANCE = 1e-9  # of an answer's largest error, against max(1, max |wanted|)


@dataclass(frozen=True)
class Case:
    """A function of cases.py and adapters.py: what is tested, and what it is worth."""

    name: str
    points: float
    tol: float = TOLERANCE


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong answer: `old` in the hole's source is `new`, or `body` is the hole's body.

    only  the choices of variants under which it can be made, e.g. {"scale": 0}
    """

    message: str
    old: str = ""
    new: str = ""
    body: str = ""
    only: Mapping[str, int] = field(default_factory=dict)

    def fits(self, choices: Mapping[str, int]) -> bool:
        return all(choices[name] == choice for name, choice in self.only.items())


@dataclass(frozen=True)
class Hole:
    """A function of the library whose body the student writes.

    at    "minipeft/methods/lora.py::LoRALinear.forward"
    keep  statements of its body, after the docstring, that stay
    """

    id: str
    at: str
    title: str
    hints: tuple[str, ...]
    cases: tuple[Case, ...]
    mistakes: tuple[Mistake, ...]
    keep: int = 0

    @property
    def file(self) -> str:
        return self.at.partition("::")[0]

    @property
    def function(self) -> str:
        return self.at.partition("::")[2]

    @property
    def points(self) -> float:
        return sum(case.points for case in self.cases)


@dataclass(frozen=True)
class Question:
    """A written question, graded by hand."""

    id: str
    title: str
    points: float


@dataclass(frozen=True)
class Edit:
    """A text of a file that stands there once, and what a variant has in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Choice:
    """One convention that a class can be given."""

    say: str
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class Assignment:
    """A homework, as its assignment.toml has it.

    always  edits of every class's starter code: what gives a solution away is not imported
    """

    folder: Path
    name: str
    title: str
    hours: tuple[float, float]
    lectures: tuple[str, ...]
    needs: tuple[str, ...]
    holes: tuple[Hole, ...]
    questions: tuple[Question, ...]
    variants: Mapping[str, tuple[Choice, ...]]
    always: tuple[Edit, ...] = ()

    @property
    def points(self) -> float:
        return sum(h.points for h in self.holes) + sum(q.points for q in self.questions)

    def hole(self, id: str) -> Hole:
        """Raises  ValueError that names the nearest hole"""
        there = {hole.id: hole for hole in self.holes}
        if id not in there:
            near = nearest(id, there)
            raise ValueError(f"{self.name} has no hole {id!r}; it has {', '.join(there)}"
                             + (f". Did you mean {near}?" if near else ""))  # fmt: skip
        return there[id]

    def cases(self) -> Iterator[tuple[Hole, Case]]:
        return ((hole, case) for hole in self.holes for case in hole.cases)

    def choices(self, seed: str | None = None) -> dict[str, int]:
        """The convention of each variant for a class; without a seed, the library's own."""
        return {
            name: 0 if seed is None else _drawn(f"{self.name}:{name}:{seed}", len(choices))
            for name, choices in self.variants.items()
        }

    def edits(self, choices: Mapping[str, int]) -> list[Edit]:
        return [e for name, i in choices.items() for e in self.variants[name][i].edits]

    def says(self, choices: Mapping[str, int]) -> dict[str, str]:
        """What stands for {{name}} in the handout."""
        return {name: self.variants[name][i].say for name, i in choices.items()}


def _drawn(text: str, n: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % n


# -- reading --------------------------------------------------------------------------------------


def homework_dir() -> Path:
    """The folder with the assignments: $MINIPEFT_HOMEWORK, the checkout's, lectures/homework here.

    Raises  FileNotFoundError that names the places looked in
    """
    named = os.environ.get("MINIPEFT_HOMEWORK")
    checkout = Path(__file__).resolve().parents[3]
    places = [Path(named)] if named else [place / "lectures" / "homework"
                                          for place in (checkout, Path.cwd())]  # fmt: skip
    for place in places:
        if any(place.glob("*/assignment.toml")):
            return place.resolve()
    raise FileNotFoundError(
        f"no homework found. Looked in: {', '.join(map(str, dict.fromkeys(places)))}. It is part "
        "of the checkout, not of the installed package; MINIPEFT_HOMEWORK names a folder of others"
    )


def assignments() -> list[Assignment]:
    """All assignments of the course, in order."""
    return [load(file.parent) for file in sorted(homework_dir().glob("*/assignment.toml"))]


def load(which: str | Path) -> Assignment:
    """An assignment by its name ("hw3") or its folder.

    Raises  ValueError that names what is wrong in assignment.toml, and the nearest valid choice
    """
    folder = Path(which)
    if not (folder / "assignment.toml").is_file():
        there = {f.parent.name.partition("_")[0]: f.parent
                 for f in homework_dir().glob("*/assignment.toml")}  # fmt: skip
        if str(which) not in there:
            raise ValueError(f"no assignment {str(which)!r}; there are {', '.join(sorted(there))}")
        folder = there[str(which)]
    file = folder / "assignment.toml"
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from error
    return _Reader(file).assignment(told)


class _Reader:
    """Makes an assignment of a toml table, and says where it cannot."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def assignment(self, told: dict[str, Any]) -> Assignment:
        wanted = {"name": str, "title": str, "hours": list, "lectures": list}
        lists = ("hole", "question", "variant")
        self.check("the assignment", told, wanted, ("needs", "edit", *lists))
        name, hours = told["name"], told["hours"]
        if len(hours) != 2 or not all(isinstance(h, int | float) for h in hours):
            raise ValueError(f"{self.file}: hours are two numbers, from and to, got {hours}")
        return Assignment(
            self.file.parent, name, told["title"], (hours[0], hours[1]), tuple(told["lectures"]),
            tuple(told.get("needs", ())),
            tuple(self.hole(f"{name}.{i}", h) for i, h in enumerate(told.get("hole", ()), 1)),
            tuple(self.question(f"{name}.{chr(97 + i)}", q)
                  for i, q in enumerate(told.get("question", ()))),
            dict(self.variant(v) for v in told.get("variant", ())),
            self.edits("an edit", told.get("edit", ())),
        )  # fmt: skip

    def hole(self, id: str, told: dict[str, Any]) -> Hole:
        wanted = {"at": str, "title": str, "hints": list, "case": list}
        self.check(f"hole {id}", told, wanted, ("keep", "mistake"))
        if "::" not in told["at"]:
            raise ValueError(f"{self.file}: hole {id}: at is FILE::FUNCTION, got {told['at']!r}")
        return Hole(
            id, told["at"], told["title"], tuple(told["hints"]),
            tuple(self.made(Case, f"a case of hole {id}", c, ("name", "points"), ("tol",))
                  for c in told["case"]),
            tuple(self.mistake(id, m) for m in told.get("mistake", ())),
            told.get("keep", 0),
        )  # fmt: skip

    def mistake(self, id: str, told: dict[str, Any]) -> Mistake:
        where = f"a mistake of hole {id}"
        if ("old" in told) == ("body" in told) or ("old" in told) != ("new" in told):
            raise ValueError(f"{self.file}: {where} has old and new, or a body: got "
                             f"{', '.join(sorted(told))}")  # fmt: skip
        return self.made(Mistake, where, told, ("message",), ("only", "old", "new", "body"))

    def question(self, id: str, told: dict[str, Any]) -> Question:
        return self.made(
            Question, f"question {id}", {"id": id} | told, ("id", "title", "points"), ()
        )

    def variant(self, told: dict[str, Any]) -> tuple[str, tuple[Choice, ...]]:
        self.check("a variant", told, {"name": str, "choice": list}, ())
        name = told["name"]
        made = []
        for choice in told["choice"]:
            self.check(f"a choice of variant {name!r}", choice, {"say": str}, ("edits",))
            edits = self.edits(f"an edit of variant {name!r}", choice.get("edits", ()))
            made.append(Choice(choice["say"], edits))
        if len(made) < 2 or made[0].edits:
            raise ValueError(f"{self.file}: variant {name!r} needs two choices or more, the first "
                             "without edits: the library's own")  # fmt: skip
        return name, tuple(made)

    def edits(self, where: str, told: Iterable[dict[str, Any]]) -> tuple[Edit, ...]:
        return tuple(self.made(Edit, where, e, ("file", "old", "new"), ()) for e in told)

    def made(self, kind: type, where: str, told: dict[str, Any], need: Any, may: Any) -> Any:
        self.check(where, told, dict.fromkeys(need, object), may)
        return kind(**told)

    def check(self, where: str, told: dict[str, Any], wanted: Mapping[str, Any], may: Any) -> None:
        for key, kind in wanted.items():
            if not isinstance(told.get(key), kind) or told.get(key) is None:
                raise ValueError(f"{self.file}: {where} needs {key} = a {kind.__name__}, got "
                                 f"{told.get(key)!r}")  # fmt: skip
        for key in told:
            if key not in wanted and key not in may:
                raise ValueError(f"{self.file}: {where} has {key!r}; it can have "
                                 f"{', '.join([*wanted, *may])}. Nearest: "
                                 f"{nearest(key, [*wanted, *may])}")  # fmt: skip
