"""Strings to arrays: what a task gives, as the batches that a training step takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from minipeft.backend import Rng, is_whole
from minipeft.models.inputs import answer_rows, pad, text_ids, texts_of
from minipeft.models.layout import added_positions

IGNORE = -100  # a label that does not count


@dataclass(frozen=True)
class Batch:
    """One step's data.

    ids     (B, T) token ids, padded on the right; or pictures (B, K, side, side)
    labels  (B, T): what should follow each id, or what stands behind a mask, IGNORE where
            nothing is learnt; (B,) classes for a linear head
    mask    (B, T) true where an id is real
    rows    (B,) indices of the examples, where the same index always is the same text
    more    what else a loss of its own asks for, by name: arrays with B rows, as all options of
            each example
    segments  (B, T) which of two texts an id is of, 0 or 1; None where all are of the first
    """

    ids: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    rows: np.ndarray | None = None
    more: Mapping[str, np.ndarray] | None = None
    segments: np.ndarray | None = None

    def given(self, xp: Any = np) -> dict[str, Any]:
        """What a model reads beside the ids: the mask where it hides anything, and segments."""
        found = {} if self.mask.all() else {"mask": xp.asarray(self.mask)}
        return found if self.segments is None else found | {"segments": xp.asarray(self.segments)}

    def part(self, cut: slice) -> Batch:
        """Some of its rows."""
        return Batch(
            self.ids[cut],
            self.labels[cut],
            self.mask[cut],
            None if self.rows is None else self.rows[cut],
            None if self.more is None else {name: a[cut] for name, a in self.more.items()},
            None if self.segments is None else self.segments[cut],
        )


class Source(Protocol):
    """Where batches come from: the batch of a step depends on (seed, step) alone."""

    def batch(self, step: int, size: int, seed: int) -> Batch: ...


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n examples in an epoch; kept, because every batch of the epoch asks for it."""
    return Rng(seed, "epoch", epoch).permutation(n)


def in_turn(n: int, step: int, size: int, seed: int) -> list[int]:
    """The indices of a step's examples; a batch may span two epochs."""
    chosen: list[int] = []
    while len(chosen) < size:
        epoch, start = divmod(step * size + len(chosen), n)
        chosen += _order(n, seed, epoch)[start : start + size - len(chosen)].tolist()
    return chosen


class TaskBatches:
    """Batches of a task's examples as a model reads them, in a new random order every epoch.

    head="lm"      the text is prompt + target + the end token; the loss is on the last two
    head="mlm"     it is the prompt with masks for the longest option; the loss is on them
    head="linear"  it is the prompt, and the label its class
    Raises  ValueError that names the example: an empty prompt, a text longer than the context, a
            label that is missing, none of the options or `classes`, or not that of the target
    """

    def __init__(self, model: Any, examples: Sequence[Any]) -> None:
        if not examples:
            raise ValueError("there is no example to train on")
        config, tokenizer, head = model.config, model.tokenizer, model.config.head
        for i, example in enumerate(examples):
            _check_example(f"example {i}", example, head, config.classes)
        encoded = texts_of(model, examples)
        targets = tokenizer.encode_many([e.target for e in examples])
        words = sorted({option for e in examples for option in e.options})
        options = dict(zip(words, tokenizer.encode_many(words), strict=True))
        context = config.context - added_positions(model)
        self.pad, self.linear = tokenizer.pad_id, head == "linear"
        self.rows: list[tuple[list[int], list[int]]] = []
        self.firsts: list[int] = []  # how many ids of each row are of the first segment
        for example, texts, target in zip(examples, encoded, targets, strict=True):
            if not all(texts):
                raise ValueError(f"an example with an empty prompt; its target: {example.target!r}")
            if self.linear:
                ids, part = text_ids(model, texts)
                labels = [example.label]
            else:
                lm = head == "lm"
                choices = [target] if lm else [options[o] for o in example.options]
                ids, first, said = answer_rows(model, texts[0], choices, ends=lm)[0]
                part, labels = len(ids), [IGNORE] * len(ids)
                answer = said[0 if lm else example.label]
                labels[first : first + len(answer)] = answer
            needed = len(ids) + (head == "lm")
            if needed > context:
                raise ValueError(f"an example has {needed} tokens, the context holds {context}: "
                                 f"{example.prompt[:60]!r} …")  # fmt: skip
            self.rows.append((ids, labels))
            self.firsts.append(part)

    @classmethod
    def of(cls, model: Any, examples: Any) -> Any:
        """Examples as a model takes them: texts with its tokenizer and head, or pictures."""
        config, pictures = model.config, hasattr(examples, "pixels")
        if pictures != hasattr(config, "image"):
            reads, got = ("text", "pictures") if pictures else ("pictures", "text")
            raise ValueError(f"a {type(model).__name__} reads {reads}, this task is on {got}")
        if pictures:
            return ImageBatches(examples.pixels, examples.labels, config.classes)
        return cls(model, examples)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        return self.collate(in_turn(len(self.rows), step, size, seed))

    def collate(self, chosen: Sequence[int]) -> Batch:
        """The batch of the examples with these indices."""
        ids = pad([self.rows[i][0] for i in chosen], self.pad)
        mask = pad([[1] * len(self.rows[i][0]) for i in chosen], 0) > 0
        if self.linear:
            labels = np.array([self.rows[i][1][0] for i in chosen])
        else:
            labels = pad([self.rows[i][1] for i in chosen], IGNORE)
        firsts = np.array([self.firsts[i] for i in chosen])[:, None]
        second = mask & (np.arange(ids.shape[1]) >= firsts)
        segments = second.astype(np.int64) if second.any() else None
        return Batch(ids, labels, mask, np.asarray(chosen), segments=segments)


def _check_example(which: str, example: Any, head: str, classes: int | None) -> None:
    """Refuse what would train on something else than the example says."""
    label, options = example.label, example.options
    for name in ("prompt", "target"):
        if not isinstance(getattr(example, name), str):
            raise ValueError(f"{which}: {name} must be a text, got {getattr(example, name)!r:.60}")
    which, pair = f"{which}, {example.prompt[:60]!r} …", example.pair
    if pair and (len(pair) != 2 or not all(isinstance(text, str) for text in pair)):
        raise ValueError(f"{which}: pair must be two texts or (), got {pair!r:.60}")
    if label is None:
        if head != "lm":
            raise ValueError(f"{which}: head={head!r} needs a label, and there is none; a task "
                             "of generation needs head='lm'")  # fmt: skip
        return
    if not is_whole(label) or label < 0:
        raise ValueError(f"{which}: label must be a whole number >= 0, got {label!r}")
    if head == "mlm" and not options:
        raise ValueError(f"{which}: head='mlm' needs options, of which one is the target")
    if options and label >= len(options):
        raise ValueError(f"{which}: label {label} names none of its {len(options)} options, "
                         "which are counted from 0")  # fmt: skip
    if options and options[label] != example.target:
        raise ValueError(f"{which}: label {label} stands for the option {options[label]!r}, but "
                         f"the target is {example.target!r}")  # fmt: skip
    if head == "linear" and classes is not None and label >= classes:
        raise ValueError(f"{which}: label {label} is none of the head's {classes} classes, which "
                         "are counted from 0")  # fmt: skip


class ImageBatches:
    """Batches of pictures with their classes.

    Shapes  pixels (N, K, side, side), labels (N,); of a batch the mask is (B, 1), all true
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, classes: int | None = None) -> None:
        if len(labels) != len(pixels) or labels.dtype.kind not in "iu":
            raise ValueError(f"{len(pixels)} pictures need as many whole numbers as labels, got "
                             f"{labels.dtype} of shape {labels.shape}")  # fmt: skip
        most = np.inf if classes is None else classes
        for i in np.flatnonzero((labels < 0) | (labels >= most))[:1].tolist():
            raise ValueError(f"picture {i}: label {labels[i]} is none of the {classes or ''} "
                             "classes, which are counted from 0")  # fmt: skip
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        return self.collate(in_turn(len(self), step, size, seed))

    def collate(self, chosen: Sequence[int]) -> Batch:
        """The batch of the pictures with these indices."""
        at = np.asarray(chosen)
        return Batch(self.pixels[at], self.labels[at], np.ones((len(at), 1), bool), at)


class TokenBatches:
    """Rows of running text for language modelling: every token is to be foretold.

    Shapes  rows (N, T + 1) ids; `fill` marks padding at the end of a row
    """

    def __init__(self, rows: np.ndarray, fill: int) -> None:
        self.rows, self.fill = rows, fill

    @classmethod
    def pack(cls, texts: Sequence[Sequence[int]], length: int, end: int, fill: int) -> TokenBatches:
        """Put texts one after another, each with an end token, into rows of length + 1.

        A row begins where a text begins, as a prompt does; what does not fit is cut off.
        """
        if not texts:
            raise ValueError("there is no text to pack")
        rows: list[list[int]] = []
        row: list[int] = []
        for ids in texts:
            row += [*ids, end]
            if len(row) > length:
                rows.append(row[: length + 1])
                row = []
        if row:
            rows.append(row + [fill] * (length + 1 - len(row)))
        return cls(np.array(rows, dtype=np.int32), fill)

    @classmethod
    def apart(
        cls, texts: Sequence[Sequence[int]], length: int, end: int, fill: int
    ) -> TokenBatches:
        """Put each text into a row of its own, with an end token; what does not fit is cut off."""
        if not texts:
            raise ValueError("there is no text to put into rows")
        rows = np.full((len(texts), length + 1), fill, dtype=np.int32)
        for row, ids in zip(rows, texts, strict=True):
            shown = [*ids, end][: length + 1]
            row[: len(shown)] = shown
        return cls(rows, fill)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        return self.collate(in_turn(len(self.rows), step, size, seed))

    def collate(self, chosen: Sequence[int]) -> Batch:
        rows = self.rows[np.asarray(chosen)].astype(np.int64)
        labels = np.where(rows[:, 1:] == self.fill, IGNORE, rows[:, 1:])
        return Batch(rows[:, :-1], labels, rows[:, :-1] != self.fill, np.asarray(chosen))


class Mixture:
    """Batches of several sources by turns, for training on many tasks at once.

    Every source gives one batch in each round, in an order that the seed draws anew; so tasks
    weigh the same however many examples they have. All must be of one kind, as `TaskBatches`.
    Raises  ValueError where there is no source
    """

    def __init__(self, sources: Sequence[Any]) -> None:
        if not sources:
            raise ValueError("a mixture needs at least one source, got none")
        self.sources = list(sources)
        sizes = [len(source) for source in self.sources]
        self.firsts = [sum(sizes[:i]) for i in range(len(sizes))]  # index of each one's first

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        turn, place = divmod(step, len(self.sources))
        which = int(Rng(seed, "round", turn).permutation(len(self.sources))[place])
        made = self.sources[which].batch(turn, size, seed)
        assert made.rows is not None
        return replace(made, rows=made.rows + self.firsts[which])


def task_batches(
    model: Any, task: Any, split: str, n: int | None, pattern: int, seed: int = 0
) -> Any:
    """A task's examples as batches for a model, with the model's tokenizer and head."""
    examples = task_of(task).load(split, n=n, seed=seed, pattern=pattern)
    return TaskBatches.of(model, examples)


def task_of(source: Any) -> Any:
    """The task given, or one of the rows of a list or a file."""
    if not isinstance(source, (list, tuple, str, os.PathLike)):
        return source
    from minipeft.tasks.own import load_own

    return load_own(source)
