"""What holds for every task that makes its own data: splits, sizes, patterns, the same bytes."""

import hashlib
from itertools import combinations

import pytest

from minipeft.tasks import FROM_FILES, TASKS, get_task
from minipeft.tasks.base import SIZES
from tests.tasks.baselines import parts

NAMES = [name for name in TASKS if name not in FROM_FILES]
FEW = {"truth": 200, "new-facts": 50}  # of so many facts and no more
SCORES = {
    "classification": {"accuracy", "f1", "matthews", "mc1", "mc2"},
    "generation": {"bleu", "rouge_l", "exact", "ter", "slot_error"},
}
ALIASES = {"all", "seen", "unseen", "edited", "paraphrased"}  # of other splits
DIGESTS = {
    "unscramble": "706822dba06db0b3",
    "summary": "f8b690b6ffcaafbd",
    "new-facts": "431b1e5af0bd2b22",
    "choice": "f22cd1ddd87f178e",
    "sentiment-shift": "2bb368516934235c",
    "nli": "6ed6ccdd5ab9e77b",
    "nli-shift": "6e624ab87cb53f52",
    "paraphrase": "b596f8765bd23f75",
    "acceptability": "5434a6b93f71f70b",
}


@pytest.fixture(scope="module", params=NAMES)
def task(request):
    return get_task(request.param)


def test_names_kinds_and_patterns(task):
    assert TASKS[task.name] and task.kind in ("classification", "generation")
    assert len(task.patterns) >= 3 and len({p.template for p in task.patterns}) >= 3
    for pattern in task.patterns:
        assert len(set(pattern.words)) == len(pattern.words) == len(task.patterns[0].words)
        assert all(w.startswith(" ") and len(w.split()) == 1 for w in pattern.words)
        assert not pattern.template.endswith(" ")
    assert {"train", "validation", "test"} <= set(task.splits)
    assert task.metric in SCORES[task.kind] and set(task.also) < SCORES[task.kind]
    assert len(task.sizes) == len(task.splits)


def test_the_repr_tells_name_splits_and_sizes(task):
    said = repr(task)
    assert said.startswith(f"{type(task).__name__}({task.name!r}: {task.kind}, {task.metric}; ")
    assert all(f"{s} {n:,}" in said for s, n in zip(task.splits, task.sizes, strict=True))


def test_examples_are_whole(task):
    for split, n in zip(task.splits, task.sizes, strict=True):
        for e in task.load(split, min(n, 40)):
            assert e.prompt and not e.prompt.endswith(" ") and "{" not in e.prompt
            assert e.target.startswith(" ") and e.target.strip()
            if task.kind == "classification":
                assert e.options[e.label] == e.target
                assert len(set(e.options)) == len(e.options) > 1
                assert all(o.startswith(" ") for o in e.options)
            else:
                assert e.references[0] == e.target and e.label is None
                assert len(set(e.references)) == len(e.references)


def test_patterns_change_the_frame_alone(task):
    sets = [task.load("test", 12, pattern=i) for i in range(len(task.patterns))]
    assert len({tuple(e.prompt for e in s) for s in sets}) == len(sets)
    for i, examples in enumerate(sets):
        assert [e.label for e in examples] == [e.label for e in sets[0]]
        for one, other in zip(sets[0], examples, strict=True):
            assert parts(one, task.patterns[0]) == parts(other, task.patterns[i])


def test_splits_share_no_text(task):
    n = FEW.get(task.name, 400)
    splits = [s for s in task.splits if s not in ALIASES]
    loaded = {s: {e.prompt for e in task.load(s, n)} for s in splits}
    for one, other in combinations(splits, 2):
        assert not loaded[one] & loaded[other], (one, other)
    assert not loaded["train"] & {e.prompt for e in task.load("test", 50, seed=7)}


def test_small_sizes_are_the_beginning_of_large_ones(task):
    most = FEW.get(task.name, 300)
    large = task.load("train", most)
    for n in (s for s in SIZES if s <= most):
        assert task.load("train", n) == large[:n]
    assert task.load("train", 16, seed=1) != large[:16]
    assert len({(e.prompt, *sorted(e.options)) for e in large}) == most, "an example twice"


@pytest.mark.parametrize("name", DIGESTS)
def test_the_same_bytes_every_time(name):
    """Digests of the text; each changes only with its task's own grammar."""
    task = get_task(name)
    text = "\n".join(e.prompt + e.target for s in task.splits for e in task.load(s, 50))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[name]
