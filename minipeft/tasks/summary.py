"""Summary: a paragraph in one sentence. Like XSum, in miniature.

The paragraph tells a record, a slot to each sentence, in any order. The summary says what matters
of its category: what it is, of which sort, and one thing more ("The Blue Door is a cheap pub with
Thai food."). No sentence of the paragraph says that, so copying one is not enough.
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world.grammar import Draw, a, sentence
from minipeft.world.records import CATEGORIES, pronoun_of, record
from minipeft.world.sentences import part_of

SLOTS = (2, 3)  # told besides what the summary needs


class Summary(Task):
    """Paragraphs and their one sentence; `Example.kind` is the category.

    The splits share no combination of what the summary joins: where a cheap inn is tested, no
    other split tells of one. The references are the wordings of the last part.
    """

    name = "summary"
    kind = "generation"
    metric = "rouge_l"
    sizes = (1000, 200, 200)
    patterns = (
        Pattern("{x}\nIn short:"),
        Pattern("Text: {x}\nSummary:"),
        Pattern("{x} In one sentence:"),
    )

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, split))
        seen: set[str] = set()
        out: list[Example] = []
        while len(out) < n:
            category, text, references, joined = paragraph(draw)
            if part_of(joined) != split or text in seen:
                continue
            seen.add(text)
            prompt = pattern.template.format(x=text)
            out.append(Example(prompt, references[0], references=references, kind=category))
        return out


def gist(category: str) -> tuple[str, ...]:
    """The slots that a summary of the category tells: one before the noun, if any, one after."""
    spec = CATEGORIES[category].slots
    fronts = [s for s in spec if spec[s].front]
    return (*fronts[:1], next(s for s in spec if spec[s].tails))


def paragraph(draw: Draw) -> tuple[str, str, tuple[str, ...], str]:
    """A category, a paragraph, its summaries, and the combination that they rest on."""
    category = draw.pick(tuple(CATEGORIES))
    spec, needed = CATEGORIES[category].slots, gist(category)
    slots = record(draw, category, tellings=0).slots
    name, kind = slots["name"], slots["kind"]
    others = draw.sample([s for s in spec if s not in needed], draw.pick(SLOTS))
    values = {s: draw.pick(spec[s].values) for s in (*needed, *others)}
    said = [draw.pick(spec[s].verbs).format(v=v) for s, v in values.items()] + [f"is {a(kind)}"]
    subjects = [name] + [pronoun_of(category, name)] * len(values)
    text = " ".join(
        sentence(f"{subject} {told}")
        for subject, told in zip(subjects, draw.shuffle(said), strict=True)
    )
    *front, tail = needed
    noun = a(" ".join([values[s] for s in front] + [kind]))
    summaries = tuple(f" {name} is {noun} {t.format(v=values[tail])}." for t in spec[tail].tails)
    return category, text, summaries, f"{noun} {'' if front else values[tail]}"
