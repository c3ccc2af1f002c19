"""Sentiment: is a review of a restaurant or a film good or bad? Like SST-2.

The reviews negate, contrast and weaken, so that counting words does not solve the task.
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task, meant
from minipeft.world.grammar import Draw
from minipeft.world.reviews import DOMAINS, review
from minipeft.world.sentences import part_of


class Sentiment(Task):
    """Reviews with their sign, half good and half bad: label 0 is bad, 1 is good.

    domain  "food", "film", or "both": the domain the reviews are about
    """

    name = "sentiment"
    patterns = (
        Pattern("{x} All in all it was", (" terrible", " great")),
        Pattern("Review: {x} Verdict:", (" bad", " good")),
        Pattern("{x} Would I go again?", (" No", " Yes")),
        Pattern("{x} My friends, this was", (" awful", " excellent")),
    )

    def __init__(self, domain: str = "both") -> None:
        if domain not in (*DOMAINS, "both"):
            raise ValueError(
                f"domain must be {', '.join(DOMAINS)} or both, "
                f"got {domain!r}{meant(domain, (*DOMAINS, 'both'))}"
            )
        self.domain = domain
        self.domains = DOMAINS if domain == "both" else (domain,)

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, self.domain, split))
        seen: set[str] = set()
        out: list[Example] = []
        while len(out) < n:
            for label in draw.shuffle((0, 1)):  # by pairs: every even n is balanced
                domain = draw.pick(self.domains)
                text = review(draw, domain, positive=label == 1)
                while text in seen or part_of(text) != split:
                    text = review(draw, domain, positive=label == 1)
                seen.add(text)
                prompt = pattern.template.format(x=text)
                target = pattern.words[label]
                out.append(Example(prompt, target, pattern.words, label, (target,), domain))
        return out[:n]
