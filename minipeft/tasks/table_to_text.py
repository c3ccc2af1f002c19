"""Table to text: tell a record as an advertisement. Like E2E and WebNLG, in miniature.

The base has learnt to tell records in plain sentences; the task wants a style that no
pretraining text contains, and teaches it on four categories out of eight. The test asks for
those four, for the four others, or for all: what carries over is the style.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world.grammar import Draw
from minipeft.world.records import ARROW, CATEGORIES, adverts, record
from minipeft.world.sentences import part_of

SEEN = ("place", "film", "dish", "person")
UNSEEN = tuple(c for c in CATEGORIES if c not in SEEN)


@dataclass(frozen=True)
class TableExample(Example):
    """An example that also knows the values that its text must hold."""

    slots: tuple[str, ...] = ()


class TableToText(Task):
    """Records with an advertisement each, and three right wordings as references.

    "seen" and "unseen" are the parts of the test with the categories of training and with the
    others; "all" is another name of "test".
    """

    name = "table-to-text"
    kind = "generation"
    metric, also = "bleu", ("ter", "slot_error")
    splits = ("train", "validation", "test", "seen", "unseen", "all")
    sizes = (1000, 200, 200, 200, 200, 200)
    patterns = (
        Pattern("{x}" + ARROW),
        Pattern("Advertise this. {x}" + ARROW),
        Pattern("{x}\nAdvertisement:"),
    )

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        part = split if split in ("train", "validation") else "test"
        categories = {"unseen": UNSEEN, "test": SEEN + UNSEEN, "all": SEEN + UNSEEN}.get(
            split, SEEN
        )
        draw = Draw(Rng(seed, self.name, part, len(categories), categories[0]))
        seen: set[str] = set()
        out: list[Example] = []
        while len(out) < n:
            made = record(draw, draw.pick(categories), tellings=0)
            if made.table in seen or part_of(made.table) != part:
                continue
            seen.add(made.table)
            references = tuple(f" {text}" for text in adverts(made.category, made.slots))
            prompt = pattern.template.format(x=made.table)
            target = draw.pick(references)
            others = tuple(r for r in references if r != target)
            out.append(
                TableExample(
                    prompt, target, references=(target, *others), kind=made.category,
                    slots=tuple(made.slots.values()),
                )
            )  # fmt: skip
        return out
