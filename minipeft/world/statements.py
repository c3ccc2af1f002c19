"""Claims about invented subjects: what the tasks on pairs and on grammar are made of.

The subjects have names that nobody in the world bears (The Crimson Fork, Clara Baker, the old
heron), made of the same words: what is claimed of them can only be read, not remembered. And the
pretraining text can show such claims without telling a false fact. Only those ways of telling
are used here that mean the same, so that one entails another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from minipeft.world import lexicon as lx
from minipeft.world.attributes import ATTRIBUTES, Attribute
from minipeft.world.grammar import Draw
from minipeft.world.records import MEN, SURNAMES, WOMEN
from minipeft.world.sentences import bend, deny, fill, part_of
from minipeft.world.town import Entity, World

# (type, attribute): whether there is one value at a time, and the ways that mean the same.
_WAYS: dict[tuple[str, str], tuple[bool, tuple[str, ...]]] = {
    ("place", "kind"): (True, ("be {av}", "be run as {av}", "operate as {av}")),
    ("place", "food"): (False, (
        "serve {v} food", "offer {v} dishes", "cook {v} meals", "have a menu that is {v}",
        "the food at {e} is {v}", "the cooking at {e} is {v}")),
    ("place", "price"): (True, ("be {v}", "count as {v}", "a meal at {e} is {v}")),
    ("place", "rating"): (True, ("have {v}", "hold {v}")),
    ("place", "area"): (True, (
        "lie in {v}", "stand in {v}", "be in {v}", "be found in {v}", "you will find {e} in {v}")),
    ("place", "landmark"): (False, ("be near {v}", "stand close to {v}")),
    ("person", "trade"): (True, (
        "work as {av}", "be {av}", "be {av} by trade", "be employed as {av}",
        "earn a living as {av}", "the trade of {e} is that of {av}")),
    ("person", "home"): (True, ("live in {v}", "the home of {e} is in {v}")),
    ("person", "pet"): (False, ("keep {av}", "own {av}", "have {av}")),
    ("person", "likes"): (False, ("like {v}", "love {v}", "enjoy {v}")),
    ("animal", "colour"): (True, ("be {v}", "look {v}", "the colour of {e} is {v}")),
    ("animal", "habitat"): (True, ("live {v}", "be at home {v}")),
    ("animal", "diet"): (False, ("eat {v}", "feed on {v}", "live on {v}", "what {e} eats is {v}")),
    ("thing", "colour"): (True, ("be {v}", "look {v}", "the colour of {e} is {v}")),
    ("thing", "material"): (True, (
        "be made of {v}", "consist of {v}", "be built from {v}", "the material of {e} is {v}")),
    ("thing", "room"): (True, (
        "stand in {v}", "be kept in {v}", "be stored in {v}", "you will find {e} in {v}")),
    ("thing", "cost"): (True, (
        "cost {v}", "sell for {v}", "be on offer for {v}", "the price of {e} is {v}")),
}  # fmt: skip
PRICES = ("cheap", "mid-priced", "expensive")  # those that exclude each other
QUANTIFIERS = ("every", "no", "some")
AGES = ("old", "young", "little", "big", "quiet", "strange")  # of animals and things


@dataclass(frozen=True)
class Topic:
    """What can be claimed: the values and the ways to tell them.

    single   one value excludes the others: who lives in one place does not live in another
    ways     patterns that mean the same; `phrases` are those that begin with a verb
    """

    attribute: Attribute
    single: bool
    values: tuple[str, ...]
    ways: tuple[str, ...]

    @property
    def phrases(self) -> tuple[str, ...]:
        """The ways that begin with a verb: these can be denied and joined."""
        return tuple(w for w in self.ways if "{e}" not in w)


TOPICS: dict[str, tuple[Topic, ...]] = {
    kind: tuple(
        Topic(x, single, PRICES if x.name == "price" else x.values, ways)
        for x in attributes if (kind, x.name) in _WAYS
        for single, ways in (_WAYS[kind, x.name],)
    )
    for kind, attributes in ATTRIBUTES.items()
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """That a subject has a value, or has not; the subject may be "every bird"."""

    subject: Entity
    topic: Topic
    value: str
    denied: bool = False

    def told(self, way: str) -> str:
        """The claim as a clause; a denial needs a way of `topic.phrases`."""
        if "{e}" in way:
            return fill(way, self.topic.attribute, self.value, self.subject)
        return f"{self.subject.name} {self.verb_phrase(way)}"

    def verb_phrase(self, way: str) -> str:
        """The same without its subject: "does not serve Thai food"."""
        bent = deny(way) if self.denied else bend(way, "plain")
        return fill(bent, self.topic.attribute, self.value, self.subject)

    @property
    def general(self) -> bool:
        """Whether it speaks of a kind: every bird, no bird, some bird."""
        return self.subject.name.split()[0] in QUANTIFIERS

    @property
    def combination(self) -> str:
        """The kind and the value, which together belong to one split: "bird green"."""
        sort = self.subject.name.split()[-1] if self.general else sort_of(self.subject)
        return f"{sort} {self.value}"

    def ways(self) -> tuple[str, ...]:
        """How it can be told: a kind and a denial stand before a verb alone."""
        return self.topic.phrases if self.denied or self.general else self.topic.ways

    def of(self, subject: Entity) -> Claim:
        """The same claim of another subject."""
        return replace(self, subject=subject)

    def of_kind(self, quantifier: str) -> Claim:
        """The same claim, not denied, of every bird, no bird or some bird."""
        name, kind = f"{quantifier} {sort_of(self.subject)}", self.subject.type
        return replace(self, subject=Entity(name, kind), denied=False)

    def other(self, draw: Draw) -> Claim:
        """The same subject with another value, not denied."""
        values = [v for v in self.topic.values if v != self.value]
        return replace(self, value=draw.pick(values), denied=False)

    def turned(self) -> Claim:
        """The opposite claim."""
        return replace(self, denied=not self.denied)


def subject(draw: Draw, part: str, kind: str = "") -> Entity:
    """An invented subject, of one type if asked; its name belongs to that part alone."""
    kind = kind or draw.weighted(("place", "person", "animal", "thing"), (3, 3, 2, 2))
    while True:
        name, pronoun = _name(draw, kind)
        if part_of(name) == part and name not in _known():
            return Entity(name, kind, pronoun)


def another(draw: Draw, part: str, of: Entity, alien: bool = False) -> Entity:
    """A second subject of the same type; alien: of another kind, where the first is a bird."""
    while True:
        found = subject(draw, part, of.type)
        if found.name != of.name and not (alien and sort_of(found) == sort_of(of)):
            return found


def _name(draw: Draw, kind: str) -> tuple[str, str]:
    if kind == "place":
        first, last = draw.pick(lx.NAME_ADJECTIVES), draw.pick(lx.NAME_NOUNS)
        return f"The {first.capitalize()} {last.capitalize()}", "it"
    if kind == "person":
        women = draw.flip()
        return (
            f"{draw.pick(WOMEN if women else MEN)} {draw.pick(SURNAMES)}",
            "she" if women else "he",
        )
    nouns = lx.ANIMALS if kind == "animal" else lx.THINGS
    return f"the {draw.pick(AGES)} {draw.pick(nouns[draw.pick(tuple(nouns))])}", "it"


@cache
def _known() -> frozenset[str]:
    """The names that the world has given away."""
    return frozenset(World().by_name)


def claim(draw: Draw, of: Entity, *besides: Topic) -> Claim:
    """A claim with a value drawn at random, on a topic besides those given."""
    topics = [t for t in TOPICS[of.type] if t not in besides]
    chosen = draw.pick(topics)
    return Claim(of, chosen, draw.pick(chosen.values))


def sort_of(of: Entity) -> str:
    """The hypernym of an animal or a thing: the old heron is a bird."""
    nouns = lx.ANIMALS if of.type == "animal" else lx.THINGS
    return next(k for k, names in nouns.items() if of.name.split()[-1] in names)
