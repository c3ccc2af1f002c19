"""In-context learning: a prompt that begins with solved examples. Nothing is trained.

Brown et al. 2020 show a model k solved examples and then a question. What the model learns from
them is asked by changing them: their order (Lu et al. 2022), their labels (Min et al. 2022), or
by a symbol that means nothing.

Lecture  03_finetuning_and_icl
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.generation.scoring import score_many
from minipeft.models.layout import added_positions
from minipeft.tasks.base import Example, Pattern

LABELS = ("correct", "random", "flipped")


def in_context(
    examples: Sequence[Example], asked: str | Example, order: Sequence[int] | None = None
) -> str:
    """The prompt that shows solved examples, one to a line, and then asks.

    examples  of any task and pattern; each is shown as its prompt and its target
    asked     the question's prompt, or the example that it is of
    order     a permutation: the number of the example that stands first, second, ...
    """
    if order is not None:
        if sorted(order) != list(range(len(examples))):
            raise ValueError(f"order is a permutation of 0 … {len(examples) - 1}, "
                             f"got {list(order)}")  # fmt: skip
        examples = [examples[i] for i in order]
    last = asked if isinstance(asked, str) else asked.prompt
    return "\n".join([*(e.prompt + e.target for e in examples), last])


def in_turn(examples: Sequence[Example], labels: str) -> list[Example]:
    """Of each label's examples the first ones, so that these labels stand in a row: "0011"."""
    left = {label: iter([e for e in examples if str(e.label) == label]) for label in set(labels)}
    found = [e for label in labels if (e := next(left[label], None)) is not None]
    if len(found) < len(labels):
        raise ValueError(f"the {len(examples)} examples do not have the labels {labels!r}")
    return found


def option_scores(model: Any, examples: Sequence[Example], asked: Sequence[Example]) -> np.ndarray:
    """How likely the options of each question are, once the examples are shown, in nats.

    The questions have the same number of options.  -> (questions, options)
    """
    return np.array(score_many(model, [(in_context(examples, e), e.options) for e in asked]))


def relabelled(examples: Sequence[Example], how: str, seed: int = 0) -> list[Example]:
    """The same examples with other labels: new ones, those given stay as they are.

    how  "correct": the labels that they have; "random": each drawn evenly from all options, the
         right one among them; "flipped": a wrong one, drawn evenly from the wrong ones (of two
         options the other one)
    """
    if how not in LABELS:
        raise ValueError(f"labels are one of {', '.join(LABELS)}, got {how!r}")
    draw, found = Rng(seed, "relabelled"), []
    for number, e in enumerate(examples):
        if e.label is None or len(e.options) < 2:
            raise ValueError(f"only a choice between options has a label to change: example "
                             f"{number} has options {e.options}, label {e.label}")  # fmt: skip
        n, label = len(e.options), e.label
        if how == "random":
            label = int(draw.integers(0, n))
        elif how == "flipped":
            label = (label + 1 + int(draw.integers(0, n - 1))) % n
        if label != e.label:
            e = replace(e, label=label, target=e.options[label], references=(e.options[label],))
        found.append(e)
    return found


def with_symbol(examples: Sequence[Example], symbol: str) -> list[Example]:
    """New examples whose prompts begin with a symbol and a space; their labels stay."""
    if not symbol:
        raise ValueError("the symbol is empty: it would change nothing")
    return [
        replace(e, prompt=f"{symbol} {e.prompt}",
                pair=tuple(f"{symbol} {text}" for text in e.pair[:1]) + e.pair[1:])
        for e in examples
    ]  # fmt: skip


def bare(examples: Sequence[Example], pattern: Pattern, keep: str) -> list[Example]:
    """New examples to show of which one half alone is left, without the words around it.

    pattern  that of the examples
    keep     "inputs": what stands where the pattern has its fields, in a line; "labels"
    """
    if keep not in ("inputs", "labels"):
        raise ValueError(f"keep is 'inputs' or 'labels', got {keep!r}")
    literal = [re.escape(text) for text in re.split(r"{\w*}", pattern.template)]
    form, found = re.compile("(.*)".join(literal), re.DOTALL), []
    for number, e in enumerate(examples):
        match = form.fullmatch(e.prompt)
        if match is None:
            raise ValueError(f"example {number} does not have the pattern {pattern.template!r}: "
                             f"{e.prompt!r:.100}")  # fmt: skip
        text = " ".join(match.groups()) if keep == "inputs" else e.target.strip()
        found.append(replace(e, prompt=text, target=""))
    return found


def with_words(examples: Sequence[Example], words: Sequence[str], seed: int = 0) -> list[Example]:
    """New examples whose answers are drawn from these words, whatever is right."""
    if not words:
        raise ValueError("with_words needs one word at least")
    draw = Rng(seed, "words")
    return [replace(e, target=words[int(draw.integers(0, len(words)))]) for e in examples]


def with_inputs(
    examples: Sequence[Example], pattern: Pattern, texts: Sequence[str]
) -> list[Example]:
    """New examples with the same answers and other inputs: each field of the pattern is a text."""
    prompts = [filled(pattern, text) for text in texts]
    return [replace(e, prompt=p, pair=()) for e, p in zip(examples, prompts, strict=True)]


def filled(pattern: Pattern, text: str) -> str:
    """A pattern's prompt with the text in each of its fields."""
    return re.sub(r"{\w*}", lambda _: text, pattern.template)


def fits(model: Any, examples: Sequence[Example], asked: Example | Sequence[Example]) -> int:
    """How many of the examples, the first ones, fit into the model's context before a question.

    Each question needs room for its longest option too. What attached methods add is counted.
    asked   the question, or several, of which the longest decides
    Raises  ValueError if a question does not fit even alone
    """
    questions = [asked] if isinstance(asked, Example) else list(asked)
    if not questions:
        raise ValueError("fits needs a question to ask")
    answers = [model.tokenizer.encode_many(list(e.options or (e.target,))) for e in questions]
    answer = [max(map(len, options)) for options in answers]
    around = added_positions(model) + (0 if model.causal else 2)  # an encoder's begin and end
    for k in range(len(examples), -1, -1):
        prompts = model.tokenizer.encode_many([in_context(examples[:k], e) for e in questions])
        needed = around + max(len(p) + n for p, n in zip(prompts, answer, strict=True))
        if needed <= model.config.context:
            return k
    raise ValueError(f"a question needs {needed} tokens without any example; "
                     f"the context has {model.config.context}")  # fmt: skip
