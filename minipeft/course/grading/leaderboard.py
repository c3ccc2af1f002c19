"""The leaderboard: which adapter tells a record with the fewest slots wrong, under 1 % parameters.

What is handed in is an adapter's file on tiny-gpt, as `Attached.save` writes it: arrays and JSON,
no code. The library attaches it and counts what trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minipeft.contract.file import read
from minipeft.generation.metrics import slot_error
from minipeft.generation.sampling import generate_many
from minipeft.methods import load_adapter
from minipeft.storage.checkpoint import CheckpointError, load_model
from minipeft.tasks import get_task
from minipeft.world.records import CALLS

MODEL, TASK = "tiny-gpt", "table-to-text"
MOST = 0.01  # of the base's parameters may train
LARGEST = 8 << 20  # bytes of a file
RECORDS = 200


class Refused(ValueError):
    """An adapter that does not take part, and why."""


class Entry(NamedTuple):
    """An adapter's place: its slot error in percent, the less the better.

    trained  parameters that train, or all numbers of the file, where it holds more
    """

    name: str
    method: str
    trained: int
    share: float
    error: float

    def rows(self) -> list[dict[str, Any]]:
        """Gradescope's leaderboard."""
        return [
            {"name": "slot error (%)", "value": round(self.error, 2), "order": "asc"},
            {"name": "trained parameters", "value": self.trained, "order": "asc"},
        ]

    def __str__(self) -> str:
        return (f"{self.name}: {self.method}, {self.trained:,} trained parameters "
                f"({100 * self.share:.2f} %), slot error {self.error:.2f} %")  # fmt: skip


def enter(path: str | Path, n: int = RECORDS, seed: int = 0) -> Entry:
    """Attach an adapter's file to the shipped model and score it on records of the test.

    seed    draws the records: the instructor's secret
    Raises  Refused for a file that is damaged or too large, was made for another base, or trains
            more than 1 % of the base's parameters
    """
    path = Path(path)
    if not path.is_file() or path.is_symlink():
        raise Refused(f"{path.name}: there is no such file; Attached.save writes one")
    if path.stat().st_size > LARGEST:
        raise Refused(f"{path.name} has {path.stat().st_size:,} bytes; an adapter under 1 % has "
                      f"far less than {LARGEST:,}")  # fmt: skip
    model = load_model(MODEL)
    try:
        arrays, _ = read(path)
        at = load_adapter(model, path)
    except (CheckpointError, ValueError, OverflowError, MemoryError) as error:
        raise Refused(f"{path.name} is no adapter of {MODEL}: {error!s:.800}") from error
    held = sum(array.size for array in arrays.values())  # a mask could hold another base
    trained, most = max(at.count() + at.count_head(), held), int(MOST * at.total)
    if trained > most:
        share = f"{100 * trained / at.total:.2f} % of the base's {at.total:,} parameters"
        raise Refused(f"{path.name} trains or holds {trained:,} numbers, {share}; at most {most:,} "
                      f"({100 * MOST:g} %) take part")  # fmt: skip
    examples = get_task(TASK).load("test", n=n, seed=seed)
    texts = generate_many(model, [e.prompt for e in examples])
    wrong = told_error(texts, examples)
    return Entry(path.stem, at.method.name, trained, trained / at.total, wrong)


def told_error(texts: Sequence[str], examples: Sequence[Any]) -> float:
    """Percent of the slots that the texts leave out or make up.

    A text ends with its line. One that is no advertisement, as the base's are none, tells nothing.
    """
    lines = [text.strip().partition("\n")[0] for text in texts]
    calls = tuple(call.partition("{}")[0] for call in CALLS)
    told = [line if line.startswith(calls) else "" for line in lines]
    values = {value for e in examples for value in e.slots}
    wanted = [" ".join((*e.references, *e.slots)).lower() for e in examples]
    others = [sorted(v for v in values if v.lower() not in text) for text in wanted]
    return slot_error(told, [e.slots for e in examples], others)
