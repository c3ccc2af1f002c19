"""Damaged files and settings are refused, or read right; nothing crashes, hangs or is half-read."""

import sys
from collections import Counter

import pytest

from tests import fuzz

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="posix: there is no SIGALRM here")
KINDS = ("arrays", "arrays of others", "model", "adapter", "training state",
         "sealed model", "sealed adapter", "sealed state",
         "report of an adapter", "report of a state", "tokenizer", "e2e", "pictures",
         "packed pictures", "results", "config", "method")  # fmt: skip


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return {t.name: t for t in fuzz.targets(tmp_path_factory.mktemp("whole"))}


@pytest.mark.parametrize("cases", [30, pytest.param(1000, marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_harmless(kind, cases, targets, tmp_path):
    tries = {"config": fuzz.try_config, "method": fuzz.try_method}
    ends = Counter()
    for number in range(cases):
        try:
            if kind in tries:
                ends[tries[kind](number)] += 1
            else:
                ends[fuzz.try_file(targets[kind], number, tmp_path)] += 1
        except BaseException as error:
            raise AssertionError(f"{kind}, case {number}: {error!r}") from error
    assert ends["refused"] > cases / 10  # the damage is damage


def test_whole_files_are_read(targets, tmp_path):
    for target in targets.values():
        path = tmp_path / ("devset.csv" if target.name == "e2e" else f"whole{target.suffix}")
        path.write_bytes(target.whole)
        target.read(path)
