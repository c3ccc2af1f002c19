"""Choice: four options of unequal length. Like RAFT and the multiple choice of T-Few.

A question about the world's facts or about the lists of words; the right answer is as often the
shortest as the longest. A model that sums log-probabilities prefers short options whatever they
say; divided by the length, the sums can be compared.
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world import lexicon as lx
from minipeft.world.attributes import Attribute
from minipeft.world.grammar import Draw, capitalise, join, sentence
from minipeft.world.sentences import bend, fill, part_of
from minipeft.world.town import Entity, World

OPTIONS = 4
FACT_WORDS = (1, 3, 4, 5)  # wanted lengths of answers to questions on facts
LIST_WORDS = (1, 1, 2, 2)
SHORT = 5  # letters at most, so that an answer keeps to eight tokens or so


class Choice(Task):
    """Questions with four answers of 1 to 8 tokens; `Example.kind` is "fact" or "list".

    Splits  share no entity and no list. The wrong answers about facts are values that nobody
            claims: neither the myth nor a changed value.
    world   the world asked about, World(0) unless given
    """

    name = "choice"
    patterns = (
        Pattern("Question: {x}\nAnswer:"),
        Pattern("{x}\nAnswer:"),
        Pattern("Someone in town asks: {x}\nThe answer is:"),
    )

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, split))
        asked = [
            (e, a) for e in self.world.places + self.world.people if part_of(e.name) == split
            for a in e.attributes if len(a.values) > OPTIONS + 2
        ]  # fmt: skip
        seen: set[tuple[str, ...]] = set()
        out: list[Example] = []
        while len(out) < n:
            kind = draw.pick(("fact", "list"))
            if kind == "fact":
                question, answers = self._fact(draw, *draw.pick(asked))
            else:
                question, answers = list_question(draw)
                while part_of(question) != split:
                    question, answers = list_question(draw)
            if (question, *answers) in seen:
                continue
            seen.add((question, *answers))
            target, options = answers[0], draw.shuffle(answers)
            prompt = pattern.template.format(x=question)
            label = options.index(target)
            out.append(Example(prompt, target, tuple(options), label, (target,), kind))
        return out

    def _fact(self, draw: Draw, entity: Entity, attribute: Attribute) -> tuple[str, list[str]]:
        """A question and its answers, the true one first."""
        fact, world = (entity.name, attribute.name), self.world
        true = world.facts[fact]
        taken = (true, world.myths.get(fact), world.changed.get(fact))
        wrong = draw.sample([v for v in attribute.values if v not in taken], OPTIONS - 1)
        lengths = draw.shuffle(FACT_WORDS)
        said = [
            _said(draw, entity, attribute, value, length)
            for value, length in zip((true, *wrong), lengths, strict=True)
        ]
        return capitalise(draw.pick(attribute.questions).replace("{e}", entity.name)), said


def _said(draw: Draw, entity: Entity, attribute: Attribute, value: str, words: int) -> str:
    """The value in a telling of about so many words: "Thai." or "It has a menu that is Thai."."""
    tellings = [attribute.show(value)] + [
        f"{entity.pronoun} {fill(bend(phrase, 'plain'), attribute, value, entity)}"
        for phrase in attribute.phrases
    ]
    nearest = min(abs(len(t.split()) - words) for t in tellings)
    return " " + sentence(
        draw.pick([t for t in tellings if abs(len(t.split()) - words) == nearest])
    )


def list_question(draw: Draw) -> tuple[str, list[str]]:
    """What goes with some words of a category: one or two others, or words of elsewhere."""
    names = draw.sample([c for c, words in _SHORT.items() if len(words) >= 6], OPTIONS)
    right = draw.sample(_SHORT[names[0]], 6)
    question = f"What goes under {names[0]} with {join(right[:3])}?"
    lengths = draw.shuffle(LIST_WORDS)
    groups = [right[3 : 3 + lengths[0]]] + [
        draw.sample([w for w in _SHORT[c] if w not in lx.CATEGORIES[names[0]]], k)
        for c, k in zip(names[1:], lengths[1:], strict=True)
    ]
    return question, [f" {join(group)}." for group in groups]


_SHORT = {c: [w for w in words if len(w) <= SHORT] for c, words in lx.CATEGORIES.items()}
