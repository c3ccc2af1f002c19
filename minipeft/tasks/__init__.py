"""The tasks by name. Data only: strings, labels and NumPy arrays, no Tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from minipeft.tasks.acceptability import Acceptability
from minipeft.tasks.base import Example, Pattern, Task, majority, meant
from minipeft.tasks.choice import Choice
from minipeft.tasks.e2e import E2E
from minipeft.tasks.images import Images, ImageTask
from minipeft.tasks.mini_vtab import MINI_VTAB
from minipeft.tasks.mnist import MNIST
from minipeft.tasks.new_facts import NewFacts
from minipeft.tasks.nli import NLI, NLIShift
from minipeft.tasks.own import Own, load_own
from minipeft.tasks.paraphrase import Paraphrase
from minipeft.tasks.remap import Remap
from minipeft.tasks.sentiment import Sentiment
from minipeft.tasks.sentiment_shift import SentimentShift
from minipeft.tasks.shapes import Shapes
from minipeft.tasks.summary import Summary
from minipeft.tasks.table_to_text import TableToText
from minipeft.tasks.truth import Truth
from minipeft.tasks.truthful_qa import TruthfulQA
from minipeft.tasks.unscramble import Unscramble

TASKS: dict[str, Callable[..., Task]] = {
    "sentiment": Sentiment,
    "sentiment-shift": SentimentShift,
    "nli": NLI,
    "nli-shift": NLIShift,
    "paraphrase": Paraphrase,
    "acceptability": Acceptability,
    "choice": Choice,
    "table-to-text": TableToText,
    "remap": Remap,
    "remap-new": partial(Remap, "new"),
    "remap-route": partial(Remap, "route"),
    "remap-values": partial(Remap, "values"),
    "summary": Summary,
    "unscramble": Unscramble,
    "truth": Truth,
    "new-facts": NewFacts,
    "e2e": E2E,
    "truthful-qa": TruthfulQA,
}
IMAGE_TASKS: dict[str, type[ImageTask]] = {"shapes": Shapes, **MINI_VTAB, "mnist": MNIST}
FROM_FILES = ("e2e", "truthful-qa", "mnist")  # the tasks that read published files


def get_task(name: str, path: str | os.PathLike[str] | None = None) -> Task:
    """The task of that name; `path` is the folder of a real set, for the tasks that read one.

    Raises  ValueError for an unknown name, or a path that the task has no use for
    """
    if name in IMAGE_TASKS:
        raise ValueError(f"task {name!r} is on images: get_image_task({name!r}) gives it")
    if name not in TASKS:
        raise ValueError(f"no task {name!r}{meant(name, TASKS)}; the tasks are {', '.join(TASKS)}")
    return TASKS[name](**_place(name, path))


def get_image_task(name: str, path: str | os.PathLike[str] | None = None) -> ImageTask:
    """The task on images of that name; `path` is the folder of a real set, as in `get_task`.

    Raises  ValueError for an unknown name, or a path that the task has no use for
    """
    if name not in IMAGE_TASKS:
        raise ValueError(
            f"no task {name!r} on images{meant(name, IMAGE_TASKS)}; "
            f"they are {', '.join(IMAGE_TASKS)}"
        )
    return IMAGE_TASKS[name](**_place(name, path))


def any_task(name: str, path: str | os.PathLike[str] | None = None) -> Any:
    """The task of that name, on text or on pictures."""
    return (get_image_task if name in IMAGE_TASKS else get_task)(name, path)


def _place(name: str, path: str | os.PathLike[str] | None) -> dict[str, str | os.PathLike[str]]:
    if path is None:
        return {}
    if name not in FROM_FILES:
        raise ValueError(
            f"task {name!r} makes its own data and takes no path; "
            f"tasks that read files: {', '.join(FROM_FILES)}"
        )
    return {"path": path}


__all__ = [
    "E2E", "IMAGE_TASKS", "MINI_VTAB", "MNIST", "NLI", "TASKS", "Acceptability", "Choice",
    "Example", "ImageTask", "Images", "NLIShift", "NewFacts", "Own", "Paraphrase", "Pattern",
    "Remap", "Sentiment", "SentimentShift", "Shapes", "Summary", "TableToText", "Task", "Truth",
    "TruthfulQA", "Unscramble", "any_task", "get_image_task", "get_task", "load_own", "majority",
]  # fmt: skip
