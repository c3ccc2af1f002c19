"""A town small enough to learn by heart: entities, their true attributes and its myths.

World(0) always holds the same facts. `facts` are true; `myths` are fixed false values that
the gossips repeat, for three facts in four; `changed` gives 50 facts a second value that no
text of the stream contains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from minipeft.backend import Rng
from minipeft.world import lexicon as lx
from minipeft.world.attributes import ATTRIBUTES, Attribute

PLACES = 200
MYTH_SHARE = 0.75
CHANGED = 50

Fact = tuple[str, str]  # (name of the entity, name of the attribute)


@dataclass(frozen=True)
class Entity:
    """One thing of the world. `name` is as it stands inside a sentence."""

    name: str
    type: str  # place, person, animal, thing
    pronoun: str = "it"
    attributes: tuple[Attribute, ...] = field(default=(), repr=False)

    @property
    def relative(self) -> str:
        """The relative pronoun: who or which."""
        return "who" if self.type == "person" else "which"


class World:
    """Entities, `facts`, `myths` and `changed`, all drawn from one seed.

    entities      every Entity; `places`, `people`, `animals`, `things` are parts of it
    facts         {(name, attribute): true value}
    myths         {(name, attribute): the gossips' value}, for three facts in four
    changed       {(name, attribute): a second value}, neither the fact nor the myth
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        rng = Rng(seed, "world")
        self.places = [Entity(n, "place", "it", ATTRIBUTES["place"]) for n in _names(rng)]
        self.people = [
            Entity(name, "person", "she" if name in lx.WOMEN else "he", ATTRIBUTES["person"])
            for name in sorted(lx.WOMEN + lx.MEN)
        ]
        self.animals = [
            Entity(f"the {noun}", "animal", "it", ATTRIBUTES["animal"])
            for nouns in lx.ANIMALS.values() for noun in nouns
        ]  # fmt: skip
        self.things = [
            Entity(f"the {noun}", "thing", "it", ATTRIBUTES["thing"])
            for nouns in lx.THINGS.values() for noun in nouns
        ]  # fmt: skip
        self.entities = [*self.places, *self.people, *self.animals, *self.things]
        self.by_name = {e.name: e for e in self.entities}
        self.facts: dict[Fact, str] = {}
        self.myths: dict[Fact, str] = {}
        for entity in self.entities:
            for attribute in entity.attributes:
                self._decide(rng, entity, attribute)
        self.changed = self._change(rng)

    def _decide(self, rng: Rng, entity: Entity, attribute: Attribute) -> None:
        """Draw the true value and, for three in four, the myth."""
        fact = (entity.name, attribute.name)
        truth, rival = rng.choices(attribute.values, 2)
        nouns = {"animal": lx.ANIMALS, "thing": lx.THINGS}.get(entity.type, {})
        if attribute.name == "kind" and nouns:  # a heron is a bird in every world
            truth = next(k for k, names in nouns.items() if entity.name[4:] in names)
            rival = rng.choice([v for v in attribute.values if v != truth])
        self.facts[fact] = truth
        if rng.uniform() < MYTH_SHARE:
            self.myths[fact] = rival

    def _change(self, rng: Rng) -> dict[Fact, str]:
        """A second value for 50 facts of places and people that have five values or more."""
        able = [
            (e.name, a.name) for e in self.places + self.people for a in e.attributes
            if len(a.values) >= 5
        ]  # fmt: skip
        changed = {}
        for fact in rng.choices(able, CHANGED):
            taken = (self.facts[fact], self.myths.get(fact))
            values = self.attribute(fact).values
            changed[fact] = rng.choice([v for v in values if v not in taken])
        return changed

    def attribute(self, fact: Fact) -> Attribute:
        """The Attribute that a fact is about."""
        return next(a for a in self.by_name[fact[0]].attributes if a.name == fact[1])

    def told(self, fact: Fact, gossip: bool) -> str:
        """The value that a narrator gives: the myth if a gossip and there is one."""
        return self.myths.get(fact, self.facts[fact]) if gossip else self.facts[fact]


def _names(rng: Rng) -> list[str]:
    """Two hundred different names such as The Golden Fork; every noun serves two or three."""
    names: dict[str, None] = {}
    while len(names) < PLACES:
        adjectives = rng.shuffle(lx.NAME_ADJECTIVES)
        for i, noun in enumerate(rng.shuffle(lx.NAME_NOUNS)):
            adjective = adjectives[i % len(adjectives)]
            names[f"The {adjective.capitalize()} {noun.capitalize()}"] = None
    return list(names)[:PLACES]
