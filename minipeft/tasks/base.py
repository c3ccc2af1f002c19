"""What every task is: examples as strings, splits that share nothing, patterns with verbalizers.

A task is a grammar and a rule that sorts its sentences into splits by a hash of the sentence
itself. No list of examples is stored: `load` draws sentences until it has n of the split asked
for, so the same call gives the same bytes everywhere, and no sentence can be in two splits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minipeft.backend import is_whole
from minipeft.checks import nearest

SIZES = (16, 32, 64, 128, 256, 1000, 10_000)  # the sizes of the course's small-data curves


@dataclass(frozen=True)
class Example:
    """One thing to learn or to be asked: `prompt + target` is the text, the loss is on `target`.

    target      starts with the space that parts it from the prompt, if one is needed
    options     the verbalizers of a classification, in the same form as `target`
    label       the index of the right option; None for generation
    references  every wording that is right, the target first; for generation
    kind        the example's category, where the task has categories
    pair        the two texts of which the prompt is made, for an encoder that reads them apart
    """

    prompt: str
    target: str
    options: tuple[str, ...] = ()
    label: int | None = None
    references: tuple[str, ...] = ()
    kind: str = ""
    pair: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pattern:
    """A template with `{x}` where the sentence goes, and one word for each label."""

    template: str
    words: tuple[str, ...] = ()


class Task:
    """The base of all tasks: checks what is asked, then leaves the drawing to `_draw`."""

    name: str = ""
    kind: str = "classification"  # or "generation"
    metric: str = "accuracy"  # or "matthews", "mc1"; of generation "bleu", "rouge_l", "exact"
    also: tuple[str, ...] = ()  # "f1", "mc2"; "ter", "slot_error": what else is usual for it
    patterns: tuple[Pattern, ...] = ()
    splits: tuple[str, ...] = ("train", "validation", "test")
    sizes: tuple[int, ...] = (1000, 500, 500)  # how many `load` gives unless told, by split
    largest: int = SIZES[-1]

    def load(
        self, split: str, n: int | None = None, seed: int = 0, pattern: int | Pattern = 0
    ) -> list[Example]:
        """n examples of a split; the first n of a larger load with the same seed are the same.

        pattern  the number of one of the task's, or a Pattern of your own with as many words
        Raises  ValueError for a split, n or pattern that the task does not have
        """
        if split not in self.splits:
            raise ValueError(
                f"task {self.name!r} has no split {split!r}{meant(split, self.splits)}; "
                f"its splits are {', '.join(self.splits)}"
            )
        if n is None:
            n = self.sizes[self.splits.index(split)]
        if not is_whole(n) or not 1 <= n <= self.largest:
            raise ValueError(
                f"n must be an integer from 1 to {self.largest}, got {n!r}; "
                f"usual sizes are {', '.join(map(str, SIZES))}"
            )
        return self._draw(split, int(n), seed, self._pattern(pattern))

    def __repr__(self) -> str:
        return described(self)

    def _pattern(self, pattern: int | Pattern) -> Pattern:
        """One of the task's patterns, or one of the same form."""
        if isinstance(pattern, Pattern):
            fields = [set(re.findall(r"{(\w*)}", p.template)) for p in (self.patterns[0], pattern)]
            if fields[0] != fields[1] or len(pattern.words) != len(self.patterns[0].words):
                raise ValueError(f"a pattern of task {self.name!r} has the form of "
                                 f"{self.patterns[0]}, got {pattern}")  # fmt: skip
            return pattern
        if isinstance(pattern, bool) or pattern not in range(len(self.patterns)):
            raise ValueError(
                f"task {self.name!r} has patterns 0 to {len(self.patterns) - 1}, got {pattern!r}"
            )
        return self.patterns[pattern]

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        raise NotImplementedError(f"{type(self).__name__} must define _draw")


def described(task: Any) -> str:
    """A task's name, what it is, and how many examples its splits give."""
    splits = zip(task.splits, task.sizes, strict=True)
    sizes = ", ".join(f"{split} {n:,}" for split, n in splits)
    return f"{type(task).__name__}({task.name!r}: {task.kind}, {task.metric}; {sizes})"


def majority(examples: Sequence[Example]) -> float:
    """The accuracy of always giving the commonest label, in percent."""
    counts = Counter(e.label for e in examples)
    return 100.0 * max(counts.values()) / len(examples)


def meant(word: str, choices: Iterable[str]) -> str:
    """A hint such as " (did you mean 'test'?)", empty where nothing is near."""
    near = nearest(word, choices, close=True)
    return f" (did you mean {near!r}?)" if near else ""
