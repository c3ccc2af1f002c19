"""Paraphrase: do two sentences say the same? Like MRPC and QQP.

Sentences that say the same differ in their words, and sentences that do not differ in one value,
in who has what, or in a "not": so counting the words they share solves little.
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world.grammar import Draw, sentence
from minipeft.world.sentences import FRONTS
from minipeft.world.statements import Claim, another, claim, subject

SHAPES = ("one", "two", "both")  # one claim, two of one subject, one each of two subjects
SHAPE_WEIGHTS = (0.65, 0.2, 0.15)
DENIED_SHARE = {True: 0.45, False: 0.2}  # of pairs that say the same; not: as many hold a "not"
AGAIN_SHARE = 0.5  # single claims that differ, told in the same way, so that most words are shared
FRONT_SHARE = 0.2  # sentences that begin with "in fact" or the like, which changes nothing


class Paraphrase(Task):
    """Pairs of sentences: 0 they say different things, 1 they say the same.

    The splits share no subject, so no text; `Example.kind` names how the two differ.
    """

    name = "paraphrase"
    also = ("f1",)
    patterns = (
        Pattern("{x}\n{y}\nThe same? Answer:", (" no", " yes")),
        Pattern("Text: {x} In other words: {y}\nLabel:", (" false", " true")),
        Pattern("Input: {x} Or: {y}\nOutput:", (" bad", " good")),
    )

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, split))
        seen: set[tuple[str, str]] = set()
        out: list[Example] = []
        while len(out) < n:
            for label in draw.shuffle((0, 1)):
                x = y = ""
                while x == y or (x, y) in seen:
                    x, y, kind = pair(draw, split, same=label == 1)
                seen.add((x, y))
                word, prompt = pattern.words[label], pattern.template.format(x=x, y=y)
                out.append(Example(prompt, word, pattern.words, label, (word,), kind, (x, y)))
        return out[:n]


def pair(draw: Draw, part: str, same: bool) -> tuple[str, str, str]:
    """Two sentences that say the same or not, and how the second differs."""
    shape = draw.weighted(SHAPES, SHAPE_WEIGHTS)
    first = claim(draw, subject(draw, part))
    if shape == "one":
        first = first.turned() if draw.flip(DENIED_SHARE[same]) else first
        change = "wording" if same else draw.pick(("value", "negation", "subject"))
        if change == "value":
            second = first.other(draw)
            second = second.turned() if first.denied else second
        elif change == "negation":
            second = first.turned()
        else:
            second = first.of(another(draw, part, first.subject)) if change == "subject" else first
        way = draw.pick(first.ways())
        again = not same and draw.flip(AGAIN_SHARE) and way in second.ways()
        told = second.told(way if again else draw.pick(second.ways()))
        return _front(draw, first.told(way)), _front(draw, told), change
    if shape == "two":
        pairs = [first, claim(draw, first.subject, first.topic)]
        change, other = "order", draw.shuffle(pairs)
        if not same:
            change, other = "value", [other[0].other(draw), other[1]]
        return _two(draw, pairs), _two(draw, draw.shuffle(other)), change
    pairs = [first, first.other(draw).of(another(draw, part, first.subject))]
    change, other = "order", draw.shuffle(pairs)
    if not same:
        change = "exchange"
        other = [other[0].of(other[1].subject), other[1].of(other[0].subject)]
    return _both(draw, pairs), _both(draw, other), change


def _two(draw: Draw, pair: list[Claim]) -> str:
    one, two = (x.verb_phrase(draw.pick(x.topic.phrases)) for x in pair)
    of = pair[0].subject
    link = draw.pick((" {} and {}", f", {of.relative} {{}}, {{}}"))
    return sentence(of.name + link.format(one, two))


def _both(draw: Draw, pair: list[Claim]) -> str:
    return sentence(", and ".join(x.told(draw.pick(x.ways())) for x in pair))


def _front(draw: Draw, text: str) -> str:
    return sentence((draw.pick(FRONTS) if draw.flip(FRONT_SHARE) else "") + text)
