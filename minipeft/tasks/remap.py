"""Token mappings in one step: a word of a list is answered by another word.

Habits stand in the pretraining text (`remap_document`): "map one" answers a list of words with
the partner of its *last* word, by a fixed bijection of sixty common words; "echo" answers with
the last word itself; "first", "second" and "fourth" with the word at that place, so that a model
learns to count places. Four tasks lie at growing or different distance from them:

    known   map one itself: the base can do it, a prompt only has to select it
    new     map two, a bijection that no text contains: sixty facts to be taught
    route   echo, but the *third* word is asked for: attention must look elsewhere, where no text
            made it look
    values  echo, but the last word is answered by a new partner: attention is right as it is,
            what it carries must change
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task, meant
from minipeft.world.grammar import Draw
from minipeft.world.sentences import part_of

WORDS = tuple(
    (
        "river garden bread moon stone horse music winter letter window table bridge "
        "doctor apple summer market church story island flower soup mother teacher morning "
        "night water paper fire gold silver forest ship farm field hill road street "
        "door room kitchen chair lamp clock coat hat shoe knife glass cup plate "
        "salt sugar butter cheese milk egg cake fish bird dog"
    ).split()
)
LENGTHS = (5, 6, 7, 8)  # words in a list: with its frame, 10 to 20 tokens
THIRD = 2
VARIANTS = ("known", "new", "route", "values")
CHOICES = 8  # options of an example


def mapping(number: int) -> dict[str, str]:
    """The bijection of that number over WORDS: one cycle, so that no word is its own partner."""
    order = Rng(number, "remap").shuffle(WORDS)
    return dict(zip(order, order[1:] + order[:1], strict=True))


ONE, TWO, THREE = mapping(1), mapping(2), mapping(3)  # known, new, values


# Habits of the pretraining text and their shares; the places say that any may be asked for.
HABITS = {"map one": 0.3, "echo": 0.3, "first": 0.13, "second": 0.13, "fourth": 0.14}
PLACES = {"echo": -1, "first": 0, "second": 1, "fourth": 3}


def remap_document(draw: Draw) -> str:
    """Three to six lines of one habit, for the pretraining text."""
    habit = draw.weighted(tuple(HABITS), tuple(HABITS.values()))
    lines = []
    for _ in range(draw.integer(3, 7)):
        words = draw.sample(WORDS, draw.pick(LENGTHS))
        answer = ONE[words[-1]] if habit == "map one" else words[PLACES[habit]]
        lines.append(f"{habit}: {' '.join(words)} -> {answer}")
    return "\n".join(lines)


class Remap(Task):
    """Answer a list of words by one word; variant "known", "new", "route" or "values".

    The splits share no list, but they do share the words that are mapped: a bijection of
    arbitrary words cannot be known for a word never seen, so what the test asks is the same
    pairs in other contexts. The options hold the right word, what the base's habits would
    answer, and words from the list.
    """

    kind = "classification"
    metric = "accuracy"

    def __init__(self, variant: str = "known") -> None:
        if variant not in VARIANTS:
            raise ValueError(
                f"variant must be one of {', '.join(VARIANTS)}, "
                f"got {variant!r}{meant(variant, VARIANTS)}"
            )
        self.variant = variant
        self.name = "remap" if variant == "known" else f"remap-{variant}"
        head = {"known": "map one", "new": "map two"}.get(variant, "echo")
        self.patterns = (
            Pattern(head + ": {x} ->"),
            Pattern("Words: {x}. Answer by " + head + ":"),
            Pattern("{x} =>"),
        )

    def answer(self, words: list[str]) -> str:
        """The right word for a list."""
        if self.variant == "route":
            return words[THIRD]
        table = {"known": ONE, "new": TWO, "values": THREE}[self.variant]
        return table[words[-1]]

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, split))
        seen: set[str] = set()
        out: list[Example] = []
        while len(out) < n:
            words = draw.sample(WORDS, draw.pick(LENGTHS))
            text = " ".join(words)
            if text in seen or part_of(text) != split:
                continue
            seen.add(text)
            right = self.answer(words)
            options = draw.shuffle(self._options(draw, words, right))
            out.append(
                Example(
                    prompt=pattern.template.format(x=text),
                    target=f" {right}",
                    options=tuple(f" {w}" for w in options),
                    label=options.index(right),
                    kind=self.variant,
                )
            )
        return out

    def _options(self, draw: Draw, words: list[str], right: str) -> list[str]:
        """CHOICES different words: the right one, the tempting ones, then others at random."""
        last = words[-1]
        tempting = [right, last, ONE[last], TWO[last], THREE[last], words[THIRD]]
        options = list(dict.fromkeys(tempting))
        others = [w for w in WORDS if w not in options]
        return options + draw.sample(others, CHOICES - len(options))
