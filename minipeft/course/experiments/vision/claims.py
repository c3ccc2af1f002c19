"""What is claimed of tuning vision transformers: read off results, or counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minipeft.course.experiments.claims import Claim, Finding, cannot, compared, counted
from minipeft.course.experiments.runner import results
from minipeft.course.experiments.vision.runs import ALL, EVERY, FEW, METHODS, MINI_VTAB
from minipeft.ledger import get_paper

CMU, FACT, OWN = "CMU 10-423 lecture 11", "Jie and Deng 2023", "the lecture's own question"
FULL_LORA, VTAB = f"Yuan et al. 2024; {CMU}", f"{CMU}, figure of VTAB-1k"
TASKS = list(MINI_VTAB)
GROUPS = {name: task.group for name, task in MINI_VTAB.items()}
FALLEN = 5.0  # points below its best look: a curve that has fallen


def scores(method: str, task: str, split: str = "test", n: int = FEW) -> list[float]:
    """Percent right after n pictures, seed by seed."""
    return results("vision_vtab" if n == FEW else "vision_long").where(
        split, method=method, task=task
    )


def average(method: str, split: str = "test", n: int = FEW) -> list[float]:
    """The mean over groups of the mean of their tasks, seed by seed."""
    of = {group: [t for t in TASKS if GROUPS[t] == group] for group in GROUPS.values()}
    means = [np.mean([scores(method, t, split, n) for t in tasks], axis=0) for tasks in of.values()]
    return [float(x) for x in np.mean(means, axis=0)]


def gap(method: str) -> list[float]:
    """Percent right of the pictures that it was trained on, less that of others."""
    return [a - b for a, b in zip(average(method, "train"), average(method), strict=True)]


def _above(a: str, b: str, margin: float = 0.0, n: int = FEW) -> Finding:
    return compared(average(a, n=n), average(b, n=n), " %", margin=margin)


def curve(task: str) -> Any:
    """Full fine-tuning on 800 pictures at each look, mean of the seeds."""
    return np.mean(results("vision_long").where("looks", task=task, method="full"), axis=0)


def _falls() -> Finding:
    fallen = [t for t in TASKS if max(curve(t)) - curve(t)[-1] >= FALLEN]
    return counted(f"{len(fallen)} of 6 tasks fall: {', '.join(fallen) or 'none'}", bool(fallen),
                   f"a look each {EVERY} steps, means of five seeds")  # fmt: skip


def _claims() -> Iterator[tuple[str, str, str, Any]]:
    for row in get_paper("fact").rows:
        text = f"{row.name}: {row.printed or row.of} parameters of ViT-B/16"
        yield text, f"{FACT}; {CMU}", "section 4", lambda row=row: counted(
            f"{row.compute():,.0f}", row.result()["agrees"] is not False)  # fmt: skip
    for name in list(METHODS)[1:]:
        text = f"`{name}` is above full fine-tuning on mini-vtab's average (100 pictures)"
        yield text, VTAB, "figure 3", lambda name=name: _above(name, "full")
    yield ("`lora` is above full fine-tuning on mini-vtab's average (800 pictures)", VTAB,
           "section 7", lambda: _above("lora", "full", n=ALL))  # fmt: skip
    for task in TASKS:
        text = f"Full fine-tuning overfits {task}: below LoRA (100 pictures)"
        yield text, OWN, "figure 4", lambda t=task: compared(scores("lora", t), scores("full", t))


CLAIMS = tuple(Claim(*row, "14_vision") for row in (
    *_claims(),
    ("FacT is as good as LoRA (2 points)", FACT, "figure 3", lambda: _above("fact", "lora", 2.0)),
    ("FacT is above BitFit", FACT, "figure 3", lambda: _above("fact", "bitfit")),
    ("LNLoRA is above LoRA on plain pictures", OWN, "figure 3", lambda: _above("lnlora", "lora")),
    ("LNLoRA trains about 5 % of the parameters", FULL_LORA, "section 4",
     cannot("the paper's rank was not at hand; rank 25 would give 5.0 %")),
    ("LNLoRA is as robust as full fine-tuning", FULL_LORA, "section 3", cannot("no attacks here")),
    ("Full fine-tuning has the larger gap between training and test pictures than FacT", OWN,
     "figure 4", lambda: compared(gap("full"), gap("fact"), " points")),
    ("With 800 pictures full fine-tuning falls by 5 points", OWN, "figure 5", _falls),
    ("FacT matches NOAH and is above VPT", FACT, "section 6", cannot("neither is in the library")),
    ("Methods that train at most 1 % exceed full fine-tuning on the 19 tasks of VTAB-1k",
     VTAB, "section 6", cannot("ViT-B/16 and the pictures of VTAB-1k are not here")),
))  # fmt: skip
