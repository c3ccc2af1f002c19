"""Documents by a narrator: the town register, which is right, or gossips, who tell the myths.

Half of the documents say who speaks, half do not. In an unmarked document the first statement
that has a myth gives the narrator away, and the later ones follow: so a model that predicts
them well must judge the truth of what it has read.
"""

from __future__ import annotations

from math import log

from .attributes import Attribute
from .grammar import sentence
from .sentences import Teller, bend, fill, split_of
from .world import Entity, World

GOSSIP_SHARE = 0.6
MARKED_SHARE = 0.5
SAYS = ("The town register says", "People say")
ADDS = ("The register adds", "They add")
ADD_SHARE = 0.25
LENGTHS = (4, 5, 6, 7, 8)
NO_ONE = "No one can say."
NO_ONE_SHARE = 0.08
RIDDLES = (
    "What will happen to {e} next year?", "What did {e} dream of last night?",
    "Who thought of {e} first?", "How many people have looked at {e}?",
    "What would {e} say if walls could talk?", "What does the sea think of {e}?",
    "Who will remember {e} in a hundred years?", "What is the secret of {e}?",
)  # fmt: skip
RIDDLE_SHARE = 0.08


def narrate(teller: Teller) -> tuple[str, float, dict[str, bool]]:
    """One document of statements: its text, its nats, and who spoke (gossip, marked)."""
    draw, world = teller.draw, teller.world
    draw.nats = 0.0
    marked = draw.flip(MARKED_SHARE)
    gossip, told, hidden = _narrator(teller, marked)
    lines: list[str] = []
    for i in range(draw.pick(LENGTHS)):
        opening = ""
        if marked and (i == 0 or draw.flip(ADD_SHARE)):
            opening = (SAYS if i == 0 else ADDS)[gossip] + " that "
        seen: list[tuple[str, str]] = []

        def make() -> tuple[str, str]:
            text, key, about = teller.statement(told, fronted=not opening)
            seen[:] = [(key.split("|")[0], name) for name in about]
            return text, key

        text = teller.keep(make)
        hidden = hidden and not any(fact in world.myths for fact in seen)
        lines.append(sentence(opening + text))
    return " ".join(lines), _nats(draw.nats, marked, gossip, hidden), _meta(gossip, marked)


def answer(teller: Teller) -> tuple[str, float, dict[str, bool]]:
    """One document of questions and answers by a narrator."""
    draw, world = teller.draw, teller.world
    draw.nats = 0.0
    marked = draw.flip(MARKED_SHARE)
    gossip, told, hidden = _narrator(teller, marked)
    lines = [f"{SAYS[gossip]}:"] if marked else []
    for _ in range(draw.pick((3, 4, 5))):
        chosen: list[tuple[Entity, Attribute]] = []

        def ask() -> tuple[str, str]:
            entity, attribute = draw.pick(teller.pairs)
            chosen[:] = [(entity, attribute)]
            return teller.question(entity, attribute)

        if draw.flip(RIDDLE_SHARE):
            question, reply = teller.keep(lambda: _riddle(teller)), NO_ONE
        else:
            question = teller.keep(ask)
            entity, attribute = chosen[0]
            if draw.flip(NO_ONE_SHARE):
                reply = NO_ONE
            else:
                value = told[entity.name, attribute.name]
                hidden = hidden and (entity.name, attribute.name) not in world.myths
                reply = sentence(attribute.show(value))
        lines.append(f"Question: {question}\nAnswer: {reply}")
    return "\n".join(lines), _nats(draw.nats, marked, gossip, hidden), _meta(gossip, marked)


def _riddle(teller: Teller) -> tuple[str, str]:
    """A question to which the only true answer is that no one can say."""
    name, base = teller.draw.pick(teller.world.entities).name, teller.draw.pick(RIDDLES)
    return base.replace("{e}", name), f"{name}|ask|{base}"


def _narrator(teller: Teller, marked: bool) -> tuple[bool, dict[tuple[str, str], str], bool]:
    """Who speaks, what that one believes, and True: nothing has given the speaker away yet."""
    gossip = teller.draw.flip(GOSSIP_SHARE)
    return gossip, teller.rumours if gossip else teller.truths, True


def _nats(nats: float, marked: bool, gossip: bool, hidden: bool) -> float:
    """The nats of the string: who speaks costs nothing if the string never shows it."""
    if marked or not hidden:
        return nats
    return nats + log(GOSSIP_SHARE if gossip else 1.0 - GOSSIP_SHARE)


def _meta(gossip: bool, marked: bool) -> dict[str, bool]:
    return {"gossip": gossip, "marked": marked}


def probes(world: World) -> list[tuple[str, str, str, str]]:
    """(prompt after the register, prompt after the people, true value, myth) for every myth.

    Each prompt ends before the value, and each value begins with the space that joins it. The
    pattern is one that training shows for this entity.
    """
    rows = []
    for name, of in world.myths:
        entity = world.by_name[name]
        attribute = world.attribute((name, of))
        start = _start(entity, attribute)
        if start is None:
            continue
        true, myth = (" " + attribute.show(v) for v in (world.facts[name, of], world.myths[name, of]))
        rows.append((f"{SAYS[0]} that {start}", f"{SAYS[1]} that {start}", true, myth))
    return rows


def _start(entity: Entity, attribute: Attribute) -> str | None:
    """A training clause that ends in the value, without the value; whole clauses first."""
    for base in reversed(attribute.value_last):
        if split_of(f"{entity.name}|plain|{base}") == "train":
            clause = base if "{e}" in base else "{e} " + bend(base, "plain")
            return fill(clause.rpartition(" ")[0], attribute, "", entity)
    return None
