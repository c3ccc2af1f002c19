"""E2E NLG: the published restaurant records and what people wrote about them.

Novikova, Dušek and Rieser 2017, The E2E Dataset. The csv files are read as they are: columns
`mr` (name[The Eagle], eatType[pub]) and `ref`. Several rows share a meaning representation;
their texts are each other's references.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from pathlib import Path

from minipeft.backend import Rng
from minipeft.storage.files import cache_dir
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world.records import ARROW, table

FILES = {
    "train": ("trainset.csv",),
    "validation": ("devset.csv",),
    "test": ("testset_w_refs.csv", "testset.csv"),
}
HOME = "https://github.com/tuetschek/e2e-dataset"
SLOT = re.compile(r"\s*([A-Za-z ]+)\[([^\]]*)\]\s*(?:,|$)")


class E2E(Task):
    """The real E2E NLG set, from the folder that holds its csv files.

    path       the folder; else $MINIPEFT_CACHE/e2e_nlg, else ~/.cache/minipeft/e2e_nlg
    malformed  {file: how many of its rows could not be used}, filled as files are read

    Training has one example per row; validation and test have one per meaning representation,
    with all its texts as references.
    """

    name = "e2e"
    kind = "generation"
    metric = "bleu"
    sizes = (42_061, 547, 630)
    largest = 42_061
    patterns = (Pattern("{x}" + ARROW), Pattern("{x}\n"), Pattern("Describe this. {x}" + ARROW))

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(path) if path is not None else cache_dir() / "e2e_nlg"
        self.malformed: dict[str, int] = {}
        self._rows: dict[str, list[tuple[str, str]]] = {}

    def rows(self, split: str) -> list[tuple[str, str]]:
        """(meaning representation, text) of every well-formed row, in the file's order."""
        if split not in self._rows:
            self._rows[split] = self._read(self._find(split))
        return self._rows[split]

    def groups(self, split: str) -> dict[str, list[str]]:
        """Every meaning representation with its texts, in the file's order."""
        grouped: dict[str, list[str]] = {}
        for mr, text in self.rows(split):
            grouped.setdefault(mr, []).append(text)
        return grouped

    def _find(self, split: str) -> Path:
        places = [self.folder / name for name in FILES[split]]
        for place in places:
            if place.is_file():
                return place
        raise FileNotFoundError(
            f"task 'e2e' needs {' or '.join(FILES[split])} for its split {split!r}. "
            f"Looked in: {', '.join(map(str, places))}. "
            f"`minipeft data fetch e2e` gets the files from {HOME}; or name their folder with "
            "--path DIR or E2E(path=DIR); task 'table-to-text' needs no files"
        )

    def _read(self, path: Path) -> list[tuple[str, str]]:
        good: list[tuple[str, str]] = []
        bad: list[int] = []
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"mr", "ref"} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(
                    f"{path} has no column {' and '.join(sorted(missing))}; its first line says "
                    f"{','.join(reader.fieldnames or ())[:80] or 'nothing'}, wanted mr,ref"
                )
            for row in reader:
                mr, text = row["mr"], row["ref"]
                if mr and text and text.strip() and None not in row and slots_of(mr):
                    good.append((mr, text.strip()))
                else:
                    bad.append(reader.line_num)
        self.malformed[path.name] = len(bad)
        if bad:
            shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
            warnings.warn(
                f"{path}: left out {len(bad)} malformed of {len(bad) + len(good)} rows "
                f"(ending on lines {shown})",
                stacklevel=2,
            )
        if not good:
            raise ValueError(f"{path} holds no well-formed row (mr,ref)")
        return good

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        grouped = self.groups(split)
        pairs = self.rows(split) if split == "train" else [(m, t[0]) for m, t in grouped.items()]
        order = Rng(seed, self.name, split).permutation(len(pairs))[:n]
        out = []
        for mr, text in (pairs[i] for i in order):
            others = [t for t in dict.fromkeys(grouped[mr]) if t != text]
            references = tuple(f" {t}" for t in (text, *others))
            prompt = pattern.template.format(x=table(slots_of(mr)))
            out.append(Example(prompt, references[0], references=references, kind="place"))
        return out


def slots_of(mr: str) -> dict[str, str]:
    """The slots of "name[The Eagle], eatType[pub]"; {} if the text is not of that form."""
    slots: dict[str, str] = {}
    at = 0
    while at < len(mr):
        found = SLOT.match(mr, at)
        if not found:
            return {}
        slots[found[1].strip()] = found[2]
        at = found.end()
    return slots
