"""What a task scores without reading: the commonest label, and words counted."""

import re

import numpy as np

from minipeft.tasks.base import Example, Pattern, majority


def bag_of_words(
    train: list[Example],
    test: list[Example],
    steps: int = 200,
    lr: float = 0.3,
    decay: float = 1e-3,
) -> float:
    """Accuracy in percent of logistic regression on which words the prompt holds."""
    classes = 1 + max(e.label for e in train)
    bags = [set(re.findall(r"\w+", e.prompt.lower())) for e in train + test]
    index = {w: i for i, w in enumerate(sorted(set().union(*bags[: len(train)])))}
    x = np.zeros((len(bags), len(index)))
    for row, bag in zip(x, bags, strict=True):
        row[[index[w] for w in bag if w in index]] = 1.0
    y = np.array([e.label for e in train + test])
    n = len(train)
    w, b = np.zeros((len(index), classes)), np.zeros(classes)
    for _ in range(steps):
        scores = x[:n] @ w + b
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(n), y[:n]] -= 1.0
        w -= lr * (x[:n].T @ p / n + decay * w)
        b -= lr * p.mean(0)
    return 100.0 * float(np.mean(np.argmax(x[n:] @ w + b, 1) == y[n:]))


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
