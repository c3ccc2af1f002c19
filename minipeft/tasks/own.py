"""Own: a task of your own rows, from a CSV or JSONL file or from a list in Python.

A row has a prompt and a target, the text that should follow it. With options, from which one is
to be chosen, it is a classification: the target is one of them, or `label` is its number.
Every distinct prompt belongs to one split, by the hash of its text, so rows may be put in another
order, and no prompt that is trained on is asked in the test.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task, meant

COLUMNS = ("prompt", "target", "label", "options")
BAR = "|"  # parts the options of a CSV's cell
ENDINGS = (".csv", ".jsonl")
DIGITS = re.compile(r"-?[0-9]{1,9}")
FEW = 3  # words of a target that is to be met exactly
Row = Mapping[str, Any]


class RowError(ValueError):
    """A row that cannot be taken; the message names the file, the row and the column."""


class Own(Task):
    """Examples of your own, split into train, validation and test; the split "all" is all of them.

    examples  what `load_own` makes; at least three different prompts, unless held_out is 0
    held_out  the share of the prompts that is kept for validation and test, half each; 0 trains
              on everything
    """

    splits = ("train", "validation", "test", "all")

    def __init__(
        self, examples: Sequence[Example], name: str = "own", held_out: float = 0.2
    ) -> None:
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out must be a share from 0 to 1, got {held_out!r}")
        self.name = name
        self.kind = "classification" if examples[0].options else "generation"
        words = {e.options for e in examples}
        self.patterns = (Pattern("{x}", words.pop() if len(words) == 1 else ()),)
        if self.kind == "generation":
            brief = all(len(e.target.split()) <= FEW for e in examples)
            self.metric = "exact" if brief else "bleu"
        self.parts = _parts(examples, held_out, name)
        self.sizes = tuple(len(self.parts[split]) for split in self.splits)
        self.largest = len(examples)

    def load(
        self, split: str, n: int | None = None, seed: int = 0, pattern: int | Pattern = 0
    ) -> list[Example]:
        """As of every task; n is at most what the split holds."""
        there = len(self.parts.get(split, ()))
        if split in self.splits and (not there or (isinstance(n, int) and n > there)):
            kept = f"got n={n}" if there else "because held_out=0 keeps none back"
            raise ValueError(f"task {self.name!r} has {there} examples in the split {split!r}, "
                             f"{kept}")  # fmt: skip
        return super().load(split, n, seed, pattern)

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        rows = self.parts[split]
        order = Rng(seed, "own", split).permutation(len(rows))[:n].tolist()
        return [_worded(rows[i], pattern) for i in order]


def _worded(example: Example, pattern: Pattern) -> Example:
    """An example in another wording than its own."""
    prompt, options = pattern.template.format(x=example.prompt), pattern.words or example.options
    target = example.target if example.label is None else options[example.label]
    return Example(prompt, target, options, example.label, example.references)


def _parts(
    examples: Sequence[Example], held_out: float, name: str
) -> dict[str, tuple[Example, ...]]:
    """Every split's examples: the prompts in the order of their hashes, cut at the shares."""
    prompts = sorted({e.prompt for e in examples}, key=_hash)
    kept = math.ceil(len(prompts) * held_out / 2) if held_out else 0
    if len(prompts) <= 2 * kept:
        raise RowError(
            f"{name} has {len(prompts)} different prompts: too few to keep {2 * kept} of them "
            "back for validation and test; held_out=0 trains on everything"
        )
    place = {p: "test" if i < kept else "validation" if i < 2 * kept else "train"
             for i, p in enumerate(prompts)}  # fmt: skip
    found: dict[str, list[Example]] = {split: [] for split in Own.splits}
    for example in examples:
        found[place[example.prompt]].append(example)
    return {split: tuple(rows) for split, rows in found.items()} | {"all": tuple(examples)}


def _hash(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


def load_own(source: str | os.PathLike[str] | Iterable[Any], held_out: float = 0.2) -> Own:
    """A task of your own rows.

    source    a .csv file with a first line of column names, a .jsonl file with one object a line,
              or a list of (prompt, target) pairs or of mappings
    columns   prompt and target; of a classification options too, with "|" between them in a CSV,
              and label, the number of the right one from 0, in place of the target or beside it
    held_out  the share of the prompts that is kept for validation and test; 0 keeps none
    A space is put in front of a target and of options where neither they nor the prompt have one.
    Raises    RowError that names the file, the row and the column; FileNotFoundError
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix.lower() not in ENDINGS:
            raise RowError(f"{path} must end in {' or '.join(ENDINGS)}")
        rows = _of_csv(path) if path.suffix.lower() == ".csv" else _of_jsonl(path)
        name, where = path.stem, str(path)
    else:
        rows, name, where = _of_list(source), "own", "the list"
    examples: list[Example] = []
    for place, row in rows:
        examples.append(_example(place, row))
        if bool(examples[-1].options) != bool(examples[0].options):
            has = "has options" if examples[-1].options else "has no options"
            raise RowError(f"{place} {has}, unlike the first row: all rows have them or none")
    if not examples:
        raise RowError(f"{where} holds no row")
    return Own(examples, name, held_out)


# -- rows of each kind of source, with the place that an error names ------------------------------


def _of_list(source: Iterable[Any]) -> Iterator[tuple[str, Row]]:
    for i, row in enumerate(source, 1):
        if isinstance(row, Mapping):
            yield _known(f"row {i} of the list", row)
        elif isinstance(row, (tuple, list)) and len(row) == 2:
            yield f"row {i} of the list", {"prompt": row[0], "target": row[1]}
        else:
            raise RowError(f"row {i} of the list must be a (prompt, target) pair or a mapping with "
                           f"these names, got {row!r:.60}")  # fmt: skip


def _of_csv(path: Path) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(_lines(path), strict=True, skipinitialspace=True)
    begin, number = 1, 0
    try:
        head = [column.strip() for column in next(reader, [])]
        _check_head(path, head)
        begin = reader.line_num + 1
        for cells in reader:
            if cells:  # not an empty line
                number += 1
                place = f"{path}, row {number} (line {begin})"
                if len(cells) != len(head):
                    raise RowError(f"{place}: {len(cells)} cells for {len(head)} columns; a cell "
                                   "with a comma in it needs double quotes")  # fmt: skip
                yield place, {k: v for k, v in zip(head, cells, strict=True) if v != ""}
            begin = reader.line_num + 1
    except csv.Error as error:
        raise RowError(
            f"{path}, the row that begins on line {begin} is not CSV: {error}"
        ) from error


def _check_head(path: Path, head: list[str]) -> None:
    """Refuse a first line that is no list of known columns."""
    if not any(head):
        raise RowError(f"{path} is empty: its first line must name the columns, prompt,target")
    for column in head:
        if head.count(column) > 1:
            raise RowError(f"{path}, line 1: the column {column!r} is there twice")
    needed = _needed(head)
    if needed:
        said = ",".join(head)
        marks = [c for c in ";\t" if len(head) == 1 and c in said]
        hint = f"; its columns are parted by {marks[0]!r}, and must be by commas" if marks else ""
        raise RowError(f"{path}, line 1: no column {needed!r}{meant(needed, head)}, got "
                       f"{said!r:.80}{hint}")  # fmt: skip


def _needed(names: Iterable[str]) -> str:
    """The first name that a row lacks, or "": a label and options may stand for the target."""
    there = set(names)
    if "prompt" not in there:
        return "prompt"
    if "label" in there and "options" not in there:
        return "options"
    return "" if "target" in there or {"label", "options"} <= there else "target"


def _of_jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            told = "nested too deeply" if isinstance(error, RecursionError) else error
            raise RowError(f"{place} is not JSON: {told}") from error
        if not isinstance(row, dict):
            raise RowError(f"{place} must be an object such as "
                           f'{{"prompt": "…", "target": "…"}}, got {row!r:.40}')  # fmt: skip
        yield _known(place, row)


def _known(place: str, row: Row) -> tuple[str, Row]:
    """A mapping with the columns that are needed; one that is None counts as left out."""
    row = {k: v for k, v in row.items() if v is not None}
    needed = _needed(row)
    if needed:
        raise RowError(f"{place} has no {needed!r}{meant(needed, row)}, got "
                       f"{', '.join(map(str, row)) or 'nothing'}")  # fmt: skip
    return place, row


def _lines(path: Path) -> Iterator[str]:
    """A file's lines with their ends, read as UTF-8, with or without a byte order mark."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise RowError(
                    f"{path}, line {number} is not UTF-8 (byte {error.object[error.start]:#x} at "
                    f"column {error.start + 1}): save the file as UTF-8"
                ) from error


# -- a row as an example --------------------------------------------------------------------------


def _example(place: str, row: Row) -> Example:
    prompt = _text(place, row, "prompt")
    options = tuple(_spaced(prompt, text) for text in _options(place, row))
    label = _label(place, row, options) if "label" in row else None
    if "target" in row or label is None:
        target = _spaced(prompt, _text(place, row, "target"))
        if options and target not in options:
            shown = ", ".join(repr(o.strip()) for o in options)
            raise RowError(f"{place}, column 'target': {target.strip()!r} is none of the options "
                           f"{shown:.100}")  # fmt: skip
        if label is not None and options[label] != target:
            raise RowError(f"{place}: label {label} is {options[label].strip()!r}, the target is "
                           f"{target.strip()!r}")  # fmt: skip
        label = options.index(target) if options else None
    else:
        target = options[label]
    return Example(prompt, target, options, label, (target,))


def _text(place: str, row: Row, column: str) -> str:
    value = row.get(column, "")
    if not isinstance(value, str):
        raise RowError(f"{place}, column {column!r}: wanted text, got {value!r:.40}")
    if not value.strip():
        raise RowError(f"{place}, column {column!r} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RowError(f"{place}, column {column!r} holds half of a character: {value!r:.40}")
    return value


def _options(place: str, row: Row) -> list[str]:
    """The options of a row, none if it has no such column."""
    if "options" not in row:
        return []
    found = row["options"]
    if isinstance(found, str):
        found = found.split(BAR)
    if not isinstance(found, (list, tuple)) or not all(isinstance(o, str) for o in found):
        raise RowError(f"{place}, column 'options': wanted a list of texts, got {found!r:.40}")
    texts = [o.strip() for o in found]
    if len(texts) < 2:
        raise RowError(f"{place}, column 'options': wanted two or more with {BAR!r} between them, "
                       f"got {row['options']!r:.60}")  # fmt: skip
    if "" in texts or len(set(texts)) < len(texts):
        raise RowError(f"{place}, column 'options': each must be there once and none be empty, "
                       f"got {row['options']!r:.60}")  # fmt: skip
    return [_text(place, {"options": text}, "options") for text in texts]


def _label(place: str, row: Row, options: tuple[str, ...]) -> int:
    value = row["label"]
    if isinstance(value, str) and DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError(f"{place}, column 'label': wanted the number of an option, from 0, got "
                       f"{row['label']!r:.40}")  # fmt: skip
    if not options:
        raise RowError(f"{place} has a label and no options")
    if not 0 <= value < len(options):
        raise RowError(f"{place}, column 'label': {value} is none of the {len(options)} options, "
                       f"which are 0 to {len(options) - 1}")  # fmt: skip
    return value


def _spaced(prompt: str, text: str) -> str:
    """A continuation with the space that parts it from the prompt."""
    return text if text[0].isspace() or prompt[-1].isspace() else f" {text}"
