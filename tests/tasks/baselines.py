"""What a task scores without reading: the commonest label, and words counted."""

import re

from minipeft.course.experiments.bases.counted_words import bag_of_words
from minipeft.tasks.base import Example, Pattern, majority


def baselines(name: str, train: list[Example], test: list[Example]) -> dict[str, float]:
    """Both baselines, printed and returned."""
    scores = {"majority": majority(test), "bag of words": bag_of_words(train, test)}
    print(f"{name}: " + ", ".join(f"{k} {v:.1f} %" for k, v in scores.items()))
    return scores


def parts(example: Example, pattern: Pattern) -> tuple[str, ...]:
    """The texts that stand where the pattern has {x} and {y}."""
    form = re.escape(pattern.template).replace(r"\{x\}", "(.*)").replace(r"\{y\}", "(.*)")
    found = re.fullmatch(form, example.prompt, re.DOTALL)
    return found.groups() if found else (example.prompt,)


__all__ = ["bag_of_words", "baselines", "parts"]
