"""Acceptability: is a sentence good English? Like CoLA.

Half of the sentences are spoilt, by agreement ("The noodles was fresh", "Anna Dale do not keep a
dog") or by word order ("Anna Dale keeps dog a"). Singular and plural are as frequent and every
word occurs in right sentences too, so no word by itself gives a mistake away.
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world.grammar import Draw, sentence, third
from minipeft.world.reviews import TOPICS
from minipeft.world.sentences import fill, part_of
from minipeft.world.statements import another, claim, subject

REVIEW_SHARE = 0.4  # sentences on what was good or bad at a place
PAIR_SHARE = 0.5  # plural subjects
DENIED_SHARE = 0.3
MISTAKES = ("agreement", "order")
Parts = tuple[list[str], tuple[list[str], list[str]], list[str]]  # subject, verb (is, are), rest
MOVABLE = ("a an the in at near of on by for as from along under is are was were do does").split()


class Acceptability(Task):
    """Sentences that are spoilt (0) or good (1); `Example.kind` is "right" or the mistake.

    The splits share no subject, so no text, and no noun with its adjective.
    """

    name = "acceptability"
    metric = "matthews"
    patterns = (
        Pattern("{x} Good English? Answer:", (" no", " yes")),
        Pattern("Sentence: {x}\nLabel:", (" bad", " good")),
        Pattern("Input: {x}\nOutput:", (" false", " true")),
    )

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, split))
        seen: set[str] = set()
        out: list[Example] = []
        while len(out) < n:
            for label in draw.shuffle((0, 1)):
                kind = "right" if label else draw.pick(MISTAKES)
                text = utterance(draw, split, kind)
                while text in seen:
                    text = utterance(draw, split, kind)
                seen.add(text)
                word, prompt = pattern.words[label], pattern.template.format(x=text)
                out.append(Example(prompt, word, pattern.words, label, (word,), kind))
        return out[:n]


def utterance(draw: Draw, part: str, kind: str) -> str:
    """A sentence that is "right", or spoilt by "agreement" or "order"."""
    return corrected(draw, part, kind)[0]


def corrected(draw: Draw, part: str, kind: str) -> tuple[str, str]:
    """The same, and the sentence as it should be."""
    plural = draw.flip(PAIR_SHARE)
    subject, verbs, rest = (_review if draw.flip(REVIEW_SHARE) else _claim)(draw, part, plural)
    right = subject + verbs[plural] + rest
    words = subject + verbs[plural != (kind == "agreement")] + rest
    if kind == "order":  # a small word, or else the verb, changes places with the next word
        i = draw.pick([i for i, w in enumerate(words[:-1]) if w in MOVABLE] or [len(words) - 2])
        words[i : i + 2] = words[i + 1], words[i]
    return sentence(" ".join(words)), sentence(" ".join(right))


def agreement(draw: Draw, part: str, right: bool) -> str:
    """The beginning of a sentence, up to its verb, whose number is right or not."""
    plural = draw.flip(PAIR_SHARE)
    subject, verbs, _ = (_review if draw.flip(REVIEW_SHARE) else _claim)(draw, part, plural)
    return " ".join(subject + verbs[plural == right])


def _claim(draw: Draw, part: str, plural: bool) -> Parts:
    """A claim about one subject or about two, in units: a name is one."""
    one = claim(draw, subject(draw, part))
    while plural and one.topic.attribute.article:  # two places are not "a pub"
        one = claim(draw, subject(draw, part))
    way, name = draw.pick(one.topic.phrases), one.subject.name
    names = [name, "and", another(draw, part, one.subject).name] if plural else [name]
    verb, _, rest = way.partition(" ")
    if draw.flip(DENIED_SHARE):
        verbs = (
            (["is", "not"], ["are", "not"]) if verb == "be"
            else (["does", "not", verb], ["do", "not", verb])
        )  # fmt: skip
    else:
        verbs = [third(verb)], ["are" if verb == "be" else verb]
    return names, verbs, fill(rest, one.topic.attribute, one.value, one.subject).split()


def _review(draw: Draw, part: str, plural: bool) -> Parts:
    """What was good or bad at a place."""
    place = subject(draw, part, "place").name
    while True:
        topic = draw.pick(TOPICS["food"])
        noun = draw.pick(topic.many if plural else topic.one)
        word = draw.pick(topic.good + topic.bad)
        if part_of(f"{noun} {word}") == part:
            return ["the", noun, "at", place], (["was"], ["were"]), [word]
