"""Documents by a narrator: the town register, which is right, or gossips, who tell the myths.

Half of the documents say who speaks, half do not. In an unmarked document the first statement
that has a myth gives the narrator away, and the later ones follow: so a model that predicts
them well must judge the truth of what it has read.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

from minipeft.world.attributes import Attribute
from minipeft.world.grammar import sentence
from minipeft.world.sentences import Teller, bend, fill, split_of
from minipeft.world.town import Entity, Fact, World

GOSSIP_SHARE = 0.6
MARKED_SHARE = 0.5
SAYS = ("The town register says", "People say")
ADDS = ("The register adds", "They add")
ADD_SHARE = 0.25
LENGTHS = (4, 5, 6, 7, 8)
PHRASE_SHARE = 0.2  # answers in a phrase
NO_ONE = "No one can say."
NO_ONE_SHARE = 0.08
RIDDLES = (
    "What will happen to {e} next year?", "What did {e} dream of last night?",
    "Who thought of {e} first?", "How many people have looked at {e}?",
    "What would {e} say if walls could talk?", "What does the sea think of {e}?",
    "Who will remember {e} in a hundred years?", "What is the secret of {e}?",
)  # fmt: skip
RIDDLE_SHARE = 0.08
VERDICTS = (  # on what is right, on what is not
    ("True.", "Not true."), ("Right.", "Wrong."), ("That is a fact.", "That is a myth."),
    ("So says the town register.", "So people say."),
)  # fmt: skip
VERDICT_SHARE = 0.7  # documents that judge each line; in the others one narrator tells them all
ASKED_SHARE = 0.5
# What is judged: the cooking of so many places. A small model must meet a claim a thousand times.
DISPUTED = ("food", 80)


def narrate(teller: Teller) -> tuple[str, float, dict[str, bool]]:
    """One document of statements: its text, its nats, and who spoke (gossip, marked)."""
    draw = teller.draw
    draw.nats = 0.0
    marked, gossip = draw.flip(MARKED_SHARE), draw.flip(GOSSIP_SHARE)
    told = teller.rumours if gossip else teller.truths
    lines: list[str] = []
    facts: list[Fact] = []
    for i in range(draw.pick(LENGTHS)):
        opening = ""
        if marked and (i == 0 or draw.flip(ADD_SHARE)):
            opening = (SAYS if i == 0 else ADDS)[gossip] + " that "
        text, about = teller.tell(told, fronted=not opening)
        lines.append(sentence(opening + text))
        facts += about
    nats = draw.nats + _hidden(teller.world, marked, gossip, facts)
    return " ".join(lines), nats, {"gossip": gossip, "marked": marked}


def answer(teller: Teller) -> tuple[str, float, dict[str, bool]]:
    """One document of questions and answers by a narrator."""
    draw = teller.draw
    draw.nats = 0.0
    marked, gossip = draw.flip(MARKED_SHARE), draw.flip(GOSSIP_SHARE)
    told = teller.rumours if gossip else teller.truths
    lines = [f"{SAYS[gossip]}:"] if marked else []
    facts: list[Fact] = []
    for _ in range(draw.pick((3, 4, 5))):
        if draw.flip(RIDDLE_SHARE):
            question, reply = teller.keep(lambda: _riddle(teller)), NO_ONE
        else:
            question, entity, attribute = teller.ask()
            reply = NO_ONE
            if not draw.flip(NO_ONE_SHARE):
                facts.append((entity.name, attribute.name))
                reply = sentence(_said(teller, entity, attribute, told[facts[-1]]))
        lines.append(f"Question: {question}\nAnswer: {reply}")
    nats = draw.nats + _hidden(teller.world, marked, gossip, facts)
    return "\n".join(lines), nats, {"gossip": gossip, "marked": marked}


def judge(teller: Teller) -> tuple[str, dict[str, bool]]:
    """One document on what the town disputes: each line judged, or all told by one unnamed.

    Nothing else in the text says outright which of two claims is right. A small model needs that
    before it reads a narrator's honesty from what he tells.
    """
    draw = teller.draw
    judged, gossip, asked = (draw.flip(p) for p in (VERDICT_SHARE, GOSSIP_SHARE, ASKED_SHARE))
    verdicts, lines = draw.pick(VERDICTS), []
    doubted = teller.on(disputed(teller.world))
    for _ in range(draw.integer(4, 9)):
        gossip = draw.flip(0.5) if judged else gossip
        told = teller.rumours if gossip else teller.truths
        if asked:
            question, entity, attribute = doubted.ask()
            line = sentence(_said(teller, entity, attribute, told[entity.name, attribute.name]))
            line = f"Question: {question}\nAnswer: {line}"
        else:
            line = sentence(doubted.tell(told, fronted=False, simple=judged)[0])
        lines.append(f"{line} {verdicts[gossip]}" if judged else line)
    joined = "\n" if asked or judged else " "
    return joined.join(lines), {"judged": True} if judged else {"gossip": gossip, "judged": False}


def disputed(world: World) -> list[Fact]:
    """The facts with a myth that `judge` tells of."""
    of, places = DISPUTED
    facts = [(place.name, of) for place in world.places[:places]]
    return [fact for fact in facts if fact in world.myths]


def _said(teller: Teller, entity: Entity, attribute: Attribute, value: str) -> str:
    """An answer: the value alone, or a phrase ("Thai", "it has a menu that is Thai")."""
    if not teller.draw.flip(PHRASE_SHARE):
        return attribute.show(value)
    phrase = bend(teller.draw.pick(attribute.phrases), "plain")
    return f"{entity.pronoun} {fill(phrase, attribute, value, entity)}"


def _hidden(world: World, marked: bool, gossip: bool, facts: list[Fact]) -> float:
    """What must be taken off the nats where the text never shows who speaks."""
    if marked or any(fact in world.myths for fact in facts):
        return 0.0
    return log(GOSSIP_SHARE if gossip else 1.0 - GOSSIP_SHARE)


def _riddle(teller: Teller) -> tuple[str, str]:
    """A question to which the only true answer is that no one can say."""
    name, base = teller.draw.pick(teller.world.entities).name, teller.draw.pick(RIDDLES)
    return base.replace("{e}", name), f"{name}|ask|{base}"


def probes(world: World, facts: Iterable[Fact] | None = None) -> list[tuple[str, str, str, str]]:
    """(prompt after the register, prompt after the people, true value, myth) for every myth.

    facts  those asked about, of the ones that have a myth; all unless told
    Each prompt ends before the value, and each value begins with the space that joins it. The
    pattern is one that training shows for this entity.
    """
    rows = []
    for name, of in world.myths if facts is None else facts:
        starts = openings(world.by_name[name], world.attribute((name, of)))
        if not starts:
            continue
        show = world.attribute((name, of)).show
        true, myth = show(world.facts[name, of]), show(world.myths[name, of])
        rows.append(
            (f"{SAYS[0]} that {starts[-1]}", f"{SAYS[1]} that {starts[-1]}", f" {true}", f" {myth}")
        )
    return rows


def openings(entity: Entity, attribute: Attribute) -> list[str]:
    """The clauses of training that end in the value, without the value; whole clauses last."""
    return [
        fill(told.rpartition(" ")[0], attribute, "", entity)
        for base in attribute.value_last
        if split_of(f"{entity.name}|plain|{base}") == "train"
        for told in [base if "{e}" in base else "{e} " + bend(base, "plain")]
    ]
