"""New facts: fifty facts of the world have changed; teach them. Like editing knowledge.

An edit is judged by three things: that the question it was taught with gets the new answer
(efficacy), that other wordings do (generality), and that nothing else has changed (locality).
"""

from __future__ import annotations

from dataclasses import dataclass

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.tasks.truth import Truth
from minipeft.world.attributes import Attribute
from minipeft.world.grammar import Draw, capitalise, sentence
from minipeft.world.narrators import openings
from minipeft.world.sentences import bend, fill
from minipeft.world.town import Fact, World

OPTIONS = 4
ALIASES = {"edited": "train", "paraphrased": "test"}
NEAR = 4  # neighbouring questions for each changed fact, at most


@dataclass(frozen=True)
class Edit(Example):
    """An example that also knows what held before, in the form of `target`."""

    old: str = ""


class NewFacts(Task):
    """The changed facts of a world, asked: the label is the new value.

    Splits  train, or edited: one question for each changed fact, the one that teaches it
            validation: the same facts in one other wording
            test, or paraphrased: in all other wordings, and as sentences to be completed
            neighbouring: unchanged facts of the same entities, and the same attribute of others
            that had the same value; the label is what has always been true
    Options the new value, the old one, the myth if there is one, and others; where nothing has
            changed, the fact, the new value of the fact beside it, and others, without the myth
    world   the world that changes, World(0) unless given
    """

    name = "new-facts"
    splits = ("train", "validation", "test", "edited", "paraphrased", "neighbouring")
    sizes = (50, 50, 200, 50, 200, 150)
    patterns = Truth.patterns

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()

    def statements(self) -> list[str]:
        """A sentence for each changed fact: "Beatrice works as a butcher."."""
        told = []
        for (name, of), value in self.world.changed.items():
            attribute, entity = self.world.attribute((name, of)), self.world.by_name[name]
            said = fill(bend(attribute.phrases[0], "plain"), attribute, value, entity)
            told.append(sentence(f"{name} {said}"))
        return told

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        split = ALIASES.get(split, split)
        draw = Draw(Rng(seed, self.name, split))
        asked = self._near(draw) if split == "neighbouring" else self._changed(split)
        if n > len(asked):
            raise ValueError(
                f"task 'new-facts' has {len(asked)} examples in the split {split!r}, got n={n}"
            )
        return [self._example(draw, pattern, *row) for row in draw.shuffle(asked)[:n]]

    def _changed(self, split: str) -> list[tuple[Fact, str, str]]:
        """(fact, its new value, a text that asks for it), for all changed facts."""
        rows: list[tuple[Fact, str, str]] = []
        for fact, new in self.world.changed.items():
            entity, attribute = self.world.by_name[fact[0]], self.world.attribute(fact)
            texts = [q.replace("{e}", entity.name) for q in attribute.questions]
            told = [t for t in openings(entity, attribute) if t != f"{entity.name} is"]  # is what?
            others = [*texts[2:], *told]
            chosen = {"train": texts[:1], "validation": texts[1:2]}.get(split, others)
            rows += [(fact, new, text) for text in chosen]
        return rows

    def _near(self, draw: Draw) -> list[tuple[Fact, str, str]]:
        """The same for facts beside the changed ones: (fact, the neighbour's new value, text)."""
        world, rows = self.world, {}
        for (name, of), new in world.changed.items():
            entity, value = world.by_name[name], world.facts[name, of]
            same = [(e.name, of) for e in world.entities
                    if e.type == entity.type and world.facts[e.name, of] == value]  # fmt: skip
            own = [(name, a.name) for a in entity.attributes if len(a.values) > OPTIONS + 2]
            near = [fact for fact in (*same, *own) if fact not in world.changed]
            for fact in draw.sample(near, min(NEAR, len(near))):
                text = draw.pick(world.attribute(fact).questions).replace("{e}", fact[0])
                rows[text] = (fact, new, text)
        return list(rows.values())

    def _example(self, draw: Draw, pattern: Pattern, fact: Fact, new: str, text: str) -> Edit:
        world, attribute = self.world, self.world.attribute(fact)
        true, myth = world.facts[fact], world.myths.get(fact)
        claimed = [new, true, myth]
        if fact not in world.changed:
            claimed = [true, None if new == myth else new]
        values = list(dict.fromkeys(v for v in claimed if v in attribute.values))
        free = [v for v in attribute.values if v not in (*values, myth)]
        values += draw.sample(free, OPTIONS - len(values))
        return _asked(draw, pattern, attribute, text, values, true)


def changed_world(n: int, seed: int = 0, others: bool = False) -> World:
    """The world with n of its changed facts alone.

    others  n facts that are not among its changed ones get another value, drawn at random: to
            practise on what is not tested
    """
    world, rng = World(), Rng(seed, "editing")
    able = {fact: [value] for fact, value in world.changed.items()}
    if others:
        able = {fact: [v for v in world.attribute(fact).values if v != true]
                for fact, true in world.facts.items() if fact not in world.changed}  # fmt: skip
        able = {fact: values for fact, values in able.items() if len(values) >= OPTIONS}
    chosen = rng.choices([*able], n)
    world.changed = {fact: rng.choice(able[fact]) for fact in chosen}
    return world


def _asked(
    draw: Draw, pattern: Pattern, attribute: Attribute, text: str, values: list[str], old: str
) -> Edit:
    """The example with these options, the right one first, in random order."""
    question = text.endswith("?")
    prompt = pattern.template.format(x=capitalise(text)) if question else capitalise(text)
    shown = {v: attribute.show(v) for v in values}
    options = [" " + (sentence(s) if question else f"{s}.") for s in shown.values()]
    target, before = options[0], options[values.index(old)]
    options = draw.shuffle(options)
    kind = "question" if question else "sentence"
    return Edit(prompt, target, tuple(options), options.index(target), (target,), kind, old=before)
