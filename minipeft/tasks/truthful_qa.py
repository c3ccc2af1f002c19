"""TruthfulQA: the published questions that people often answer wrongly.

Lin, Hilton and Evans 2022, TruthfulQA: Measuring How Models Mimic Human Falsehoods. The files are
read as they are: mc_task.json has the answers of MC1 (one true, several false) and of MC2 (several
of both); TruthfulQA.csv has categories and all reference answers.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

from minipeft.backend import Rng
from minipeft.storage.files import cache_dir
from minipeft.tasks.base import Example, Pattern, Task, meant

CHOICES, TEXTS = "mc_task.json", "TruthfulQA.csv"
HOME = "https://github.com/sylinrl/TruthfulQA"
COLUMNS = ("Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers")
TARGETS = ("mc1", "mc2")


class TruthfulQA(Task):
    """The real TruthfulQA set, from the folder that holds its files.

    path     the folder; else $MINIPEFT_CACHE/truthfulqa, else ~/.cache/minipeft/truthfulqa
    targets  "mc1": one true answer among false ones, which is `label`; "mc2": all answers, of
             which `references` are true; `label` is the first of these, so accuracy says little

    The options are in random order. Half of the questions are test, a fifth of the rest validation,
    as Li et al. (2023) part them; "all" is all of them.
    """

    name = "truthful-qa"
    splits = ("train", "validation", "test", "all")
    sizes = (328, 81, 408, 817)
    largest = 817
    patterns = (Pattern("Q: {x}\nA:"), Pattern("{x}\nAnswer:"), Pattern("Question: {x}\nAnswer:"))

    def __init__(self, path: str | os.PathLike[str] | None = None, targets: str = "mc1") -> None:
        if targets not in TARGETS:
            raise ValueError(
                f"targets must be 'mc1' or 'mc2', got {targets!r}{meant(targets, TARGETS)}"
            )
        self.folder = Path(path) if path is not None else cache_dir() / "truthfulqa"
        self.metric = self.targets = targets
        self._read: dict[str, Any] = {}

    def questions(self) -> list[dict[str, Any]]:
        """The rows of mc_task.json: question, mc1_targets and mc2_targets, {answer: 1 or 0}."""
        if CHOICES not in self._read:
            path = self._find(CHOICES)
            try:
                rows = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path} is not JSON: {error!s:.200}") from error
            if not isinstance(rows, list) or not rows:
                raise ValueError(f"{path} must be a list of questions, and not empty")
            for i, row in enumerate(rows):
                _check(path, i, row)
            self._read[CHOICES] = rows
        rows_: list[dict[str, Any]] = self._read[CHOICES]
        return rows_

    def texts(self) -> list[dict[str, str]]:
        """The rows of TruthfulQA.csv, by the names of its columns; answers are parted by "; "."""
        if TEXTS not in self._read:
            path = self._find(TEXTS)
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                missing = set(COLUMNS) - set(reader.fieldnames or ())
                if missing:
                    raise ValueError(f"{path} has no column {', '.join(sorted(missing))}")
                self._read[TEXTS] = list(reader)
        texts: list[dict[str, str]] = self._read[TEXTS]
        return texts

    def _find(self, name: str) -> Path:
        if not (self.folder / name).is_file():
            raise FileNotFoundError(
                f"task 'truthful-qa' needs {name}. Looked in: {self.folder / name}. It is at {HOME}"
                "; name its folder with --path DIR or TruthfulQA(path=DIR); task 'truth' needs no "
                "files"
            )
        return self.folder / name

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        rows = self.questions()
        parted = Rng(0, self.name, "splits").permutation(len(rows))
        rest = len(rows) - len(rows) // 2
        train = rest - rest // 5
        parts = {"train": parted[:train], "validation": parted[train:rest], "test": parted[rest:]}
        mine = parts.get(split, parted)
        if n > len(mine):
            raise ValueError(f"task 'truthful-qa' has {len(mine)} questions in the split "
                             f"{split!r}, got n={n}")  # fmt: skip
        order = mine[Rng(seed, self.name, split).permutation(len(mine))][:n]
        return [self._example(rows[i], seed, pattern) for i in order]

    def _example(self, row: dict[str, Any], seed: int, pattern: Pattern) -> Example:
        answers = list(row[f"{self.targets}_targets"].items())
        mixed = Rng(seed, self.name, row["question"]).permutation(len(answers))
        options = tuple(" " + answers[i][0] for i in mixed)
        true = [i for i, j in enumerate(mixed) if answers[j][1]]
        return Example(
            pattern.template.format(x=row["question"]), options[true[0]], options, true[0],
            references=tuple(options[i] for i in true),
        )  # fmt: skip


def _check(path: Path, i: int, row: Any) -> None:
    """Raises  ValueError that names the question without text, or without true and false answers"""
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise ValueError(f"{path}: row {i} has no question")
    for name in TARGETS:
        marks = row.get(f"{name}_targets")
        if not isinstance(marks, dict) or set(marks.values()) != {0, 1}:
            raise ValueError(f"{path}: row {i} needs {name}_targets with true and false answers, "
                             f"{{answer: 1 or 0}}, got {marks!r:.60}")  # fmt: skip
        if name == "mc1" and sum(marks.values()) != 1:
            raise ValueError(f"{path}: row {i}: MC1 has one true answer, got {marks!r:.80}")
