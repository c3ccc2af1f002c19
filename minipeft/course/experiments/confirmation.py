"""Whether today's code gives what stored results say: one run of them, made anew.

    python -m minipeft.experiments confirm lora_matrices lora_ranks

Of the runs that other code made, the one that took the least time is made again. If its outcome is
the stored one, in all digits that a file keeps, the version in the file becomes that of today's
code with what it rests on: "confirmed by 1 of 280 runs". The other runs are believed, not made.
Times are left out, as no two runs share them. Of runs by several versions one each is made.

Another processor or BLAS may give other last digits with the same code. So what the stored run was
made with is printed beside a difference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minipeft.course.experiments.runner import (
    UNKNOWN,
    Experiment,
    Outcome,
    Results,
    code_of,
    fingerprints,
    rounded,
    version_of,
)
from minipeft.storage.files import data_dir, write_atomic


def confirm(experiment: Experiment, folder: Path) -> bool:
    """Make one run anew and renew the version of its file, or print what differs."""
    name, path = experiment.name, folder / f"{experiment.name}.json"
    if not path.is_file():
        return _refused(name, f"there are no results at {path}")
    found, version = Results(path), version_of(experiment)
    others: dict[str, list[dict[str, Any]]] = {}
    for run, made_by in zip(found.runs, found.made_by, strict=True):
        if code_of(made_by) != version:
            others.setdefault(made_by, []).append(run)
    if not others:
        print(f"{name}: nothing to confirm: {found.code(version)}")
        return True
    if found.about["bases"] != fingerprints(experiment):
        return _refused(name, "the results were made with another base")
    for runs in others.values():
        run = min(runs, key=lambda run: run["seconds"])
        if set(run["outcome"]) <= set(experiment.timed):
            return _refused(name, "all that it holds are times: make it anew")
        asked = ", ".join(f"{k} {v}" for k, v in run["settings"].items())
        print(f"{name}: 1 of {len(runs)} runs, which took {run['seconds']} s: {asked}", flush=True)
        made = json.loads(json.dumps(rounded(experiment.run(run["settings"]))))
        if wrong := differences(run["outcome"], made, experiment.timed):
            by = ", ".join(f"{k} {v}" for k, v in found.about["versions"].items())
            return _refused(name, "\n  ".join(["another outcome", *wrong, f"stored: {by}"]))
    renew(path, {v: f"{version}, confirmed by 1 of {len(r)} runs" for v, r in others.items()})
    print(f"{name}: equal: {Results(path).code(version)}")
    return True


def _refused(name: str, why: str) -> bool:
    print(f"{name}: not confirmed: {why}")
    return False


def differences(stored: Outcome, made: Outcome, timed: Sequence[str] = ()) -> list[str]:
    """Where two outcomes differ as they are written: NaN is NaN, and 1 is not 1.0."""
    pairs = {k: [json.dumps(o[k], sort_keys=True) if k in o else "nothing" for o in (stored, made)]
             for k in stored | made if k not in timed}  # fmt: skip
    return [f"{k}: stored {a:.60}, now {b:.60}" for k, (a, b) in pairs.items() if a != b]


def renew(path: Path, versions: dict[str, str]) -> None:
    """Replace the versions that a results file names, old -> new; all else stays to the byte."""
    text = path.read_text(encoding="utf-8")
    for old, new in versions.items():
        if old == UNKNOWN and "version" not in Results(path).about:  # the file has no such line
            before, after = '\n "seeds": ', f'\n "version": {json.dumps(new)},\n "seeds": '
            renewed = text.replace(before, after, 1)
        else:
            before, after = (f'"version": {json.dumps(v)}' for v in (old, new))
            renewed = text.replace(before, after)
        if renewed == text:
            raise ValueError(f"{path} is not laid out as the runner writes it: no {before!r} there")
        text = renewed
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def main(experiments: dict[str, Experiment], argv: Sequence[str]) -> int:
    """python -m minipeft.experiments confirm NAME ..."""
    parser = argparse.ArgumentParser(
        prog="python -m minipeft.experiments confirm",
        description="Make one stored run of each experiment anew. Where its outcome is the same, "
        "the version in the results file becomes that of today's code; the exit code is 1 if any "
        "is not confirmed.",
    )
    parser.add_argument("names", nargs="+", choices=[*experiments, "all"], metavar="NAME",
                        help="or: all")  # fmt: skip
    names = parser.parse_args(argv).names
    folder = data_dir() / "results"
    asked = experiments if "all" in names else dict.fromkeys(names)
    done = [confirm(experiments[name], folder) for name in asked]
    print(f"{sum(done)} of {len(done)} experiments: today's code gives what is stored")
    return int(not all(done))
