"""Choices with a count of their surprise, and the little English that the texts need.

`Draw` makes every choice of a generator and adds up -log p of each, so a text whose string
determines its choices comes with its own exact negative log-likelihood in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TypeVar

from minipeft.backend import Rng

T = TypeVar("T")

BATCH = 512  # uniforms drawn at a time: one call to the generator costs as much as 100 picks
_LOG = [0.0] + [log(n) for n in range(1, 1025)]


class Draw:
    """Choices from a seeded stream; `nats` is the sum of -log p of all made so far."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._ready: list[float] = []
        self.nats = 0.0

    def uniform(self) -> float:
        """A number on [0, 1); not counted in `nats`."""
        if not self._ready:
            self._ready = self._rng.uniform(BATCH).tolist()[::-1]
        return self._ready.pop()

    def integer(self, low: int, high: int) -> int:
        """An integer of [low, high), each as likely."""
        n = high - low
        if n < 1:
            raise ValueError(f"integer needs low < high, got low={low}, high={high}")
        self.nats += _LOG[n] if n <= 1024 else log(n)
        return low + int(self.uniform() * n)

    def pick(self, items: Sequence[T]) -> T:
        """One item, each as likely. A choice of one costs nothing and draws nothing."""
        n = len(items)
        if n == 1:
            return items[0]
        self.nats += _LOG[n] if n <= 1024 else log(n)
        return items[int(self.uniform() * n)]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One item, with probability in proportion to its weight."""
        total = sum(weights)
        left = self.uniform() * total
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0.0:
                self.nats -= log(weight / total)
                return item
        self.nats -= log(weights[-1] / total)  # only after a rounding error in the sums
        return items[-1]

    def flip(self, p: float = 0.5) -> bool:
        """True with probability p."""
        if p <= 0.0 or p >= 1.0:
            return p >= 1.0
        yes = self.uniform() < p
        self.nats -= log(p if yes else 1.0 - p)
        return yes

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """k different items in random order."""
        pool = list(items)
        if k > len(pool):
            raise ValueError(f"cannot sample {k} different items of {len(pool)}")
        return [pool.pop(self.integer(0, len(pool))) for _ in range(k)]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """All items in a random order."""
        return self.sample(items, len(items))


VOWELS = "aeiou"
# A vowel letter that sounds like a consonant, and the other way round.
_A_WORDS = ("uni", "use", "usu", "one", "euro", "once")
_AN_WORDS = ("hour", "honest", "heir", "honour")

IRREGULAR_PLURALS = {
    "child": "children", "foot": "feet", "goose": "geese", "loaf": "loaves", "knife": "knives",
    "leaf": "leaves", "man": "men", "mouse": "mice", "sheep": "sheep", "fish": "fish",
    "shelf": "shelves", "tooth": "teeth", "wife": "wives", "wolf": "wolves", "woman": "women",
    "person": "people", "calf": "calves", "half": "halves", "salmon": "salmon", "deer": "deer",
    "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes", "buffalo": "buffaloes",
    "trout": "trout", "ox": "oxen", "thief": "thieves", "scarf": "scarves",
}  # fmt: skip

IRREGULAR_PASTS = {
    "be": "was", "become": "became", "begin": "began", "break": "broke", "bring": "brought",
    "build": "built", "buy": "bought", "catch": "caught", "come": "came", "cost": "cost",
    "cut": "cut", "do": "did", "draw": "drew", "drink": "drank", "drive": "drove",
    "eat": "ate", "fall": "fell", "feed": "fed", "feel": "felt", "find": "found",
    "fly": "flew", "forget": "forgot", "get": "got", "give": "gave", "go": "went",
    "grow": "grew", "have": "had", "hear": "heard", "hold": "held", "keep": "kept",
    "know": "knew", "lead": "led", "leave": "left", "lend": "lent", "let": "let",
    "hide": "hid", "lie": "lay",
    "lose": "lost", "make": "made", "mean": "meant", "meet": "met", "pay": "paid",
    "put": "put", "read": "read", "ride": "rode", "ring": "rang", "rise": "rose",
    "run": "ran", "say": "said", "see": "saw", "sell": "sold", "send": "sent",
    "set": "set", "show": "showed", "shut": "shut", "sing": "sang", "sit": "sat",
    "sleep": "slept", "speak": "spoke", "spend": "spent", "stand": "stood", "steal": "stole",
    "swim": "swam", "take": "took", "teach": "taught", "tell": "told", "think": "thought",
    "throw": "threw", "understand": "understood", "wake": "woke", "wear": "wore",
    "win": "won", "write": "wrote",
}  # fmt: skip


def capitalise(text: str) -> str:
    """The same text with its first letter large."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Capitalised and with a full stop, unless it ends in a mark already."""
    return capitalise(text) + ("" if text[-1:] in ".!?" else ".")


def a(phrase: str) -> str:
    """The phrase with "a" or "an" before it: an old inn, a useful map, an hour."""
    low = phrase.lower()
    vowel = low[:1] in VOWELS and not low.startswith(_A_WORDS)
    return ("an " if vowel or low.startswith(_AN_WORDS) else "a ") + phrase


def plural(noun: str) -> str:
    """The plural of a noun or of a phrase that ends in one: tea rooms, foxes, berries."""
    head, space, last = noun.rpartition(" ")
    if last in IRREGULAR_PLURALS:
        last = IRREGULAR_PLURALS[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in VOWELS:
        last = last[:-1] + "ies"
    else:
        last += "s"
    return head + space + last


def third(verb: str) -> str:
    """He, she, it: serves, watches, carries, has, is. Only the first word is bent."""
    first, space, rest = verb.partition(" ")
    bent = {"be": "is", "have": "has", "do": "does", "go": "goes"}.get(first) or plural(first)
    return bent + space + rest


def past(verb: str) -> str:
    """The simple past: served, stopped, carried, went. Only the first word is bent."""
    first, space, rest = verb.partition(" ")
    if first in IRREGULAR_PASTS:
        bent = IRREGULAR_PASTS[first]
    elif first.endswith("e"):
        bent = first + "d"
    elif first.endswith("y") and first[-2:-1] not in VOWELS:
        bent = first[:-1] + "ied"
    elif _doubles(first):
        bent = first + first[-1] + "ed"
    else:
        bent = first + "ed"
    return bent + space + rest


def ing(verb: str) -> str:
    """The present participle: serving, making, stopping, lying. Only the first word is bent."""
    first, space, rest = verb.partition(" ")
    if first.endswith("ie"):
        bent = first[:-2] + "ying"
    elif first.endswith("e") and not first.endswith(("ee", "oe", "ye")) and first != "be":
        bent = first[:-1] + "ing"
    elif _doubles(first):
        bent = first + first[-1] + "ing"
    else:
        bent = first + "ing"
    return bent + space + rest


def _doubles(verb: str) -> bool:
    """A short verb of one syllable doubles its last consonant: stop, plan, but not visit."""
    if len(verb) < 3 or verb[-1] in VOWELS + "wxy" or verb[-2] not in VOWELS:
        return verb in ("forget", "begin", "prefer", "admit")
    one_syllable = sum(c in VOWELS for c in verb) == 1
    return one_syllable or verb in ("forget", "begin", "prefer", "admit")


def join(items: Sequence[str], last: str = "and") -> str:
    """a, b and c; the last word may be "or"."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + f" {last} " + items[-1]


IRREGULAR_PARTICIPLES = {
    "be": "been", "become": "become", "begin": "begun", "break": "broken", "come": "come",
    "do": "done", "draw": "drawn", "drink": "drunk", "drive": "driven", "eat": "eaten",
    "fall": "fallen", "fly": "flown", "forget": "forgotten", "get": "got", "give": "given",
    "go": "gone", "grow": "grown", "hide": "hidden", "know": "known", "lie": "lain",
    "ride": "ridden",
    "ring": "rung", "rise": "risen", "run": "run", "see": "seen", "show": "shown",
    "sing": "sung", "speak": "spoken", "steal": "stolen", "swim": "swum", "take": "taken",
    "throw": "thrown", "wake": "woken", "wear": "worn", "write": "written",
}  # fmt: skip


def participle(verb: str) -> str:
    """The past participle: served, lain, eaten. Only the first word is bent."""
    first, space, rest = verb.partition(" ")
    return IRREGULAR_PARTICIPLES.get(first, past(first)) + space + rest
