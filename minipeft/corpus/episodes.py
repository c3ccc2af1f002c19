"""Episodes: one latent mapping shown by examples in a row, formatted as prompts.

The label words are drawn anew for each episode, so the mapping must be read from the context.
In one half the labels are independent. In the other they persist, the label words are skewed
and some inputs are free of content: habits that give a model recency, majority and
common-token bias, which calibration can then mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from minipeft.tasks.acceptability import MISTAKES, utterance
from minipeft.tasks.nli import inference
from minipeft.tasks.paraphrase import pair
from minipeft.world import lexicon as lx
from minipeft.world.reviews import DOMAINS, review
from minipeft.world.sentences import Teller, part_of

HABIT_SHARE = 0.5  # episodes whose labels persist
PERSIST = 0.8
EMPTY_SHARE = 0.05
EMPTY = "N/A"
NATURAL_SHARE = 0.4  # episodes that keep the natural words for their classes

Sampler = Callable[[int], str]  # class -> an input of that class
# frames with {x} and {y}
SENTIMENT_FRAMES = (
    "Review: {x}\nSentiment: {y}", "{x} All in all: {y}", "Text: {x}\nLabel: {y}",
    "{x} It was {y}", "Input: {x}\nOutput: {y}", "{x} => {y}", "Opinion: {x}\nVerdict: {y}",
)  # fmt: skip
WORD_FRAMES = (
    "Input: {x}\nOutput: {y}", "{x} => {y}", "Word: {x}\nGroup: {y}", "{x}: {y}",
    "Text: {x}\nLabel: {y}", "{x} goes with {y}", "Question: {x}?\nAnswer: {y}",
)  # fmt: skip
CLAIM_FRAMES = (
    "Input: {x}\nOutput: {y}", "{x} => {y}", "Text: {x}\nLabel: {y}", "{x} Answer: {y}",
    "Lines: {x}\nVerdict: {y}",
)  # fmt: skip
PAIRS = ("{} So: {}", "{} / {}", "{} {}", "{}\n{}")  # how the two of a pair stand together
# name of a mapping: its share, its frames, least and most examples
SHOWN: dict[str, tuple[float, tuple[str, ...], tuple[int, int]]] = {
    "sentiment": (0.34, SENTIMENT_FRAMES, (4, 8)),
    "category": (0.16, WORD_FRAMES, (8, 15)),
    "fact": (0.11, WORD_FRAMES, (8, 15)),
    "pairing": (0.11, WORD_FRAMES, (8, 15)),
    "nli": (0.12, CLAIM_FRAMES, (4, 8)),
    "paraphrase": (0.08, CLAIM_FRAMES, (4, 8)),
    "acceptability": (0.08, CLAIM_FRAMES, (5, 10)),
}


# What can be answered from the lines before alone: a label is found where its input, or one like
# it, stood. Of these a model learns first to look back.
LOOKED_UP = {"pairing": 0.4, "sentiment": 0.3, "category": 0.2, "fact": 0.1}


def episode(
    teller: Teller, shares: Mapping[str, float] | None = None, natural_share: float = NATURAL_SHARE
) -> tuple[str, dict[str, Any]]:
    """One episode: its text, and what it was (mapping, label words, whether they persist).

    shares  of the mappings; those of SHOWN unless told
    """
    draw = teller.draw
    habit = draw.flip(HABIT_SHARE)
    shares = {name: share for name, (share, _, _) in SHOWN.items()} if shares is None else shares
    name = draw.weighted(tuple(shares), tuple(shares.values()))
    _, frames, counts = SHOWN[name]
    make, natural = _MAPPINGS[name](teller)
    classes = len(natural)
    if draw.flip(natural_share) and name != "pairing":
        words = list(natural)
    else:
        words = _labels(teller, classes, habit)
    frame, count = draw.pick(frames), draw.integer(*counts)
    label, lines = draw.integer(0, classes), []
    for i in range(count):
        if i and not (habit and draw.flip(PERSIST)):
            label = draw.integer(0, classes)
        x = EMPTY if habit and draw.flip(EMPTY_SHARE) else make(label)
        lines.append(frame.format(x=x, y=words[label]))
    return "\n".join(lines), {"mapping": name, "words": words, "habit": habit}


def _labels(teller: Teller, k: int, skewed: bool) -> list[str]:
    """k different label words; skewed: the i-th word of the list with weight 1/i."""
    draw = teller.draw
    if not skewed:
        return draw.sample(lx.LABELS, k)
    words: list[str] = []
    while len(words) < k:
        word = draw.weighted(lx.LABELS, _ZIPF)
        if word not in words:
            words.append(word)
    return words


_ZIPF = [1.0 / (i + 1) for i in range(len(lx.LABELS))]


def _sentiment(teller: Teller) -> tuple[Sampler, tuple[str, ...]]:
    """Reviews of one domain; none that a held-out split of the task may ask about."""
    draw = teller.draw
    domain = draw.pick(DOMAINS)

    def make(label: int) -> str:
        while True:
            text = teller.keep_text(lambda: review(draw, domain, label == 0))
            if part_of(text) == "train":
                return text

    pairs = (("positive", "negative"), ("good", "bad"), ("great", "terrible"))
    return make, draw.pick(pairs)


def _category(teller: Teller) -> tuple[Sampler, tuple[str, ...]]:
    """Words of two or three categories."""
    draw = teller.draw
    names = draw.sample(list(lx.CATEGORIES), draw.pick((2, 2, 3)))
    return lambda label: draw.pick(lx.CATEGORIES[names[label]]), tuple(names)


def _fact(teller: Teller) -> tuple[Sampler, tuple[str, ...]]:
    """Entities by the value of one attribute, truly."""
    draw = teller.draw
    entity, attribute = draw.pick(teller.pairs)
    values = draw.sample(attribute.values, 2)
    groups = [teller.sharing(entity, attribute, v) for v in values]
    if not all(groups):
        return _category(teller)
    return lambda label: draw.pick(groups[label]), tuple(values)


def _pairing(teller: Teller) -> tuple[Sampler, tuple[str, ...]]:
    """A few words, each with a label of its own: what counts is what stood before."""
    draw = teller.draw
    words = draw.sample(lx.WORDS, draw.pick((3, 4, 5)))
    return lambda label: words[label], tuple(words)


def _nli(teller: Teller) -> tuple[Sampler, tuple[str, ...]]:
    """Premises and hypotheses of the task's train part: true, open, false."""
    draw = teller.draw
    join = draw.pick(PAIRS)

    def make(label: int) -> str:
        return teller.keep_text(lambda: join.format(*inference(draw, "train", label)[:2]))

    return make, draw.pick((("true", "neither", "false"), ("yes", "neither", "no")))


def _paraphrase(teller: Teller) -> tuple[Sampler, tuple[str, ...]]:
    """Pairs that say different things, and pairs that say the same."""
    draw = teller.draw
    join = draw.pick(PAIRS[1:])

    def make(label: int) -> str:
        return teller.keep_text(lambda: join.format(*pair(draw, "train", label == 1)[:2]))

    return make, draw.pick((("no", "yes"), ("false", "true")))


def _acceptability(teller: Teller) -> tuple[Sampler, tuple[str, ...]]:
    """Sentences that are spoilt, and good ones."""
    draw = teller.draw

    def make(label: int) -> str:
        kind = "right" if label else draw.pick(MISTAKES)
        return teller.keep_text(lambda: utterance(draw, "train", kind))

    return make, draw.pick((("bad", "good"), ("no", "yes"), ("false", "true")))


_MAPPINGS = {
    "sentiment": _sentiment, "category": _category, "fact": _fact, "pairing": _pairing,
    "nli": _nli, "paraphrase": _paraphrase, "acceptability": _acceptability,
}  # fmt: skip
