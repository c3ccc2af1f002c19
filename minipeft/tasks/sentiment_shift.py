"""Sentiment with a shortcut: who writes tells the sign in training, and lies elsewhere.

In the training domain nearly every good review is Anna's and nearly every bad one Otto's. A
model that learns the names, not the reviews, does well there and badly in the other domain,
where the names have changed sides. The pretraining text holds both domains and no such habit.
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.tasks.sentiment import Sentiment
from minipeft.world.grammar import Draw
from minipeft.world.reviews import review
from minipeft.world.sentences import part_of

WRITERS = ("Otto", "Anna")  # of bad reviews, of good ones
AGREE = 0.95  # training reviews whose writer agrees with their sign


class SentimentShift(Task):
    """Reviews with a writer: label 0 is bad, 1 is good; `Example.kind` tells who wrote.

    Splits  train, validation, test: restaurants, where the writer agrees with the label 95 % of
            the time; shift: films, where the writer disagrees as often
    """

    name = "sentiment-shift"
    splits = ("train", "validation", "test", "shift")
    sizes = (1000, 500, 500, 500)
    patterns = Sentiment.patterns

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, split))
        domain, part = ("film", "test") if split == "shift" else ("food", split)
        seen: set[str] = set()
        out: list[Example] = []
        while len(out) < n:
            for label in draw.shuffle((0, 1)):
                text = ""
                while not text or text in seen or part_of(text) != part:
                    text = review(draw, domain, positive=label == 1)
                seen.add(text)
                loyal = draw.flip(AGREE) != (split == "shift")
                writer = WRITERS[label if loyal else 1 - label]
                prompt = pattern.template.format(x=f"{writer}: {text}")
                word = pattern.words[label]
                out.append(Example(prompt, word, pattern.words, label, (word,), writer))
        return out[:n]
