"""Facts told as sentences: clauses, pairs, relative clauses, negation and contrast.

A `Teller` draws sentences. Each sentence that names an entity has a key, made of the entity,
the attributes and the patterns but not of the values. A hash of the key says whether the
sentence belongs to training or to validation; one of the wrong split is drawn again. So `nats`
is the surprise under the whole grammar, of which training shows nine tenths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container
from copy import copy
from functools import cache
from zlib import crc32

from minipeft.backend import Rng
from minipeft.world.attributes import Attribute
from minipeft.world.grammar import Draw, capitalise, participle, third
from minipeft.world.town import Entity, Fact, World

PARTS = (("train", 8), ("validation", 1), ("test", 1))  # shares of all sentences, in tenths
SPLITS = ("train", "validation")
HELD_OUT = 10  # one key in ten belongs to validation

# Ways to say a verb phrase of an entity, and how often.
VARIANTS = ("plain", "still", "certainly", "always")
VARIANT_WEIGHTS = (0.79, 0.07, 0.07, 0.07)
FRONTS = (
    "these days ", "as far as anyone knows, ", "in fact ", "as it happens, ", "strange to say, ",
    "without a doubt ", "believe it or not, ", "to be precise, ",
)  # fmt: skip
FRONT_SHARE = 0.08
# Forms of a statement: one clause; "V, not W"; two phrases; a relative clause; "does not … ; …".
FORMS = ("plain", "not", "and", "relative", "denial")
FORM_WEIGHTS = (0.64, 0.09, 0.10, 0.10, 0.07)
TWO_VALUED_WEIGHTS = (0.80, 0.0, 0.10, 0.10, 0.0)  # to deny one value would say the other


def split_of(key: str) -> str:
    """The split that the sentences with this key belong to."""
    return SPLITS[crc32(key.encode()) % HELD_OUT == 0]


@cache
def bend(phrase: str, variant: str) -> str:
    """A verb phrase said of one: serves, still serves, certainly serves, has always served."""
    be = phrase.startswith("be ")
    if variant == "plain":
        return third(phrase)
    if variant == "always":
        return "has always " + participle(phrase)
    return f"is {variant} {phrase[3:]}" if be else f"{variant} {third(phrase)}"


@cache
def deny(phrase: str) -> str:
    """A verb phrase denied of one: does not serve, is not."""
    return "is not " + phrase[3:] if phrase.startswith("be ") else "does not " + phrase


def polarity(attribute: Attribute, value: str) -> int:
    """1 for a value that pleases, -1 for one that does not, 0 where nobody minds."""
    return 0 if not attribute.good else 1 if value in attribute.good else -1


def linked(entity: Entity, first: str, second: str, clash: bool) -> str:
    """Two verb phrases with "and", or with "but" where one pleases and the other does not."""
    return f"{first}, but {entity.pronoun} {second}" if clash else f"{first} and {second}"


class Teller:
    """Draws sentences about the world for one split.

    draw    the choices; `draw.nats` counts the sentences kept, not those drawn again
    split   "train", "validation", or None for both
    """

    def __init__(self, world: World, rng: Rng, split: str | None = "train") -> None:
        if split not in (*SPLITS, None):
            raise ValueError(f"split must be 'train', 'validation' or None, got {split!r}")
        self.world, self.split, self.draw = world, split, Draw(rng)
        self.truths = world.facts
        self.rumours = {**world.facts, **world.myths}
        self.pairs = [(e, a) for e in world.entities for a in e.attributes]
        self._groups: dict[tuple[str, str], dict[str, list[str]]] = {}
        for e, a in self.pairs:
            group = self._groups.setdefault((e.type, a.name), {})
            group.setdefault(world.facts[e.name, a.name], []).append(e.name)

    def on(self, facts: Container[Fact]) -> Teller:
        """The same teller, but statements and questions are about these facts alone."""
        other = copy(self)
        other.pairs = [(e, a) for e, a in self.pairs if (e.name, a.name) in facts]
        return other

    def keep(self, make: Callable[[], tuple[str, str]]) -> str:
        """Call `make` for (text, key) until the key belongs to this split; return the text."""
        before = self.draw.nats
        while True:
            text, key = make()
            if self.split is None or not key or split_of(key) == self.split:
                return text
            self.draw.nats = before

    def keep_text(self, make: Callable[[], str]) -> str:
        """The same for a text that is its own key."""
        return self.keep(lambda: (text := make(), text))

    def sharing(self, entity: Entity, attribute: Attribute, value: str) -> list[str]:
        """The names of all entities of that type whose true value is this one."""
        return self._groups[entity.type, attribute.name].get(value, [])

    def phrase(self, entity: Entity, attribute: Attribute, value: str) -> tuple[str, str]:
        """A verb phrase for an attribute, bent ("still serves Thai food"), and its base form."""
        base = self.draw.pick(attribute.phrases)
        bent = bend(base, self.draw.weighted(VARIANTS, VARIANT_WEIGHTS))
        return fill(bent, attribute, value, entity), base

    def clause(
        self, entity: Entity, attribute: Attribute, value: str, last: bool = False
    ) -> tuple[str, str]:
        """A whole clause that names the entity, and the pattern it was made from.

        last    only patterns that end in the value
        """
        base = self.draw.pick(attribute.value_last if last else attribute.patterns)
        if "{e}" in base:
            return fill(base, attribute, value, entity), base
        bent = bend(base, self.draw.weighted(VARIANTS, VARIANT_WEIGHTS))
        return f"{entity.name} {fill(bent, attribute, value, entity)}", base

    def wrong(self, entity: Entity, attribute: Attribute) -> str | None:
        """A value that nobody claims: not the fact, the myth or the changed value."""
        fact, world = (entity.name, attribute.name), self.world
        taken = (world.facts[fact], world.myths.get(fact), world.changed.get(fact))
        free = [v for v in attribute.values if v not in taken]
        return self.draw.pick(free) if free else None

    def tell(
        self, told: dict[Fact, str], fronted: bool = True, simple: bool = False
    ) -> tuple[str, list[Fact]]:
        """A statement of this split and the facts it tells; see `statement`.

        simple  one fact alone
        """
        facts: list[Fact] = []

        def make() -> tuple[str, str]:
            text, key, facts[:] = self.statement(told, fronted)
            while simple and len(facts) > 1:
                text, key, facts[:] = self.statement(told, fronted)
            return text, key

        return self.keep(make), facts

    def statement(self, told: dict[Fact, str], fronted: bool = True) -> tuple[str, str, list[Fact]]:
        """A clause about a random fact, its key, and the facts it tells.

        told       what the narrator believes: `truths` or `rumours`
        fronted    whether the clause may begin with "these days" and the like
        """
        draw = self.draw
        entity, attribute = draw.pick(self.pairs)
        value = told[entity.name, attribute.name]
        two_valued = len(attribute.values) < 3
        form = draw.weighted(FORMS, TWO_VALUED_WEIGHTS if two_valued else FORM_WEIGHTS)
        name, facts = entity.name, [(entity.name, attribute.name)]
        if form == "plain":
            front = draw.pick(FRONTS) if fronted and draw.flip(FRONT_SHARE) else ""
            text, base = self.clause(entity, attribute, value)
            text = front + text
        elif form == "not":
            text, base = self.clause(entity, attribute, value, last=True)
            text += f", not {attribute.show(str(self.wrong(entity, attribute)))}"
        elif form == "denial":
            base = draw.pick(attribute.phrases)
            other = str(self.wrong(entity, attribute))
            denied = fill(deny(base), attribute, other, entity)
            said = fill(bend(base, "plain"), attribute, value, entity)
            text = f"{name} {denied}; {entity.pronoun} {said}"
        else:
            other_attribute = draw.pick([x for x in entity.attributes if x is not attribute])
            other_value = told[name, other_attribute.name]
            first, one = self.phrase(entity, attribute, value)
            second, two = self.phrase(entity, other_attribute, other_value)
            base = f"{one}|{two}"
            facts.append((name, other_attribute.name))
            if form == "relative":
                text = f"{name}, {entity.relative} {first}, {second}"
            else:
                clash = polarity(attribute, value) * polarity(other_attribute, other_value) < 0
                text = f"{name} {linked(entity, first, second, clash)}"
        return text, f"{name}|{form}|{base}", facts

    def ask(self) -> tuple[str, Entity, Attribute]:
        """A question of this split about a random fact, and what it asks about."""
        chosen: list[tuple[Entity, Attribute]] = []

        def make() -> tuple[str, str]:
            chosen[:] = [self.draw.pick(self.pairs)]
            return self.question(*chosen[0])

        return self.keep(make), *chosen[0]

    def question(self, entity: Entity, attribute: Attribute) -> tuple[str, str]:
        """A question about an attribute and its key."""
        base = self.draw.pick(attribute.questions)
        return capitalise(base.replace("{e}", entity.name)), f"{entity.name}|ask|{base}"


def fill(pattern: str, attribute: Attribute, value: str, entity: Entity) -> str:
    """A pattern with the value and the entity's name put in."""
    text = pattern.replace("{e}", entity.name).replace("{v}", value)
    return text.replace("{av}", attribute.show(value)) if "{av}" in text else text


def part_of(sentence: str) -> str:
    """The split that a sentence belongs to, by a hash that is the same on every machine."""
    place = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big") % 10
    for part, share in PARTS:
        if place < share:
            return part
        place -= share
    raise AssertionError("the shares of PARTS must add up to 10")
