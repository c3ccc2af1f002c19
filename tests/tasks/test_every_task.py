"""What holds for every task that makes its own data: splits, sizes, patterns, the same bytes."""

import hashlib
import re
from collections import Counter
from itertools import combinations

import pytest

from minipeft.tasks import FROM_FILES, TASKS, get_task
from minipeft.tasks.base import SIZES, Example, Pattern, Task, majority
from minipeft.tasks.summary import gist
from minipeft.world import lexicon as lx
from minipeft.world.grammar import a
from minipeft.world.lexicon import LETTER_WORDS
from minipeft.world.records import CATEGORIES, MEN, SURNAMES, WOMEN
from minipeft.world.sentences import part_of, split_of
from minipeft.world.statements import AGES
from minipeft.world.town import World
from tests.tasks.baselines import parts
from tests.tasks.reader import SORTS, claims

WORLD = World()

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


SUBJECTS = re.compile(
    "|".join((
        f"The (?:{'|'.join(w.capitalize() for w in lx.NAME_ADJECTIVES)}) "
        f"(?:{'|'.join(w.capitalize() for w in lx.NAME_NOUNS)})",
        f"(?:{'|'.join(WOMEN + MEN)}) (?:{'|'.join(SURNAMES)})",
        f"[Tt]he (?:{'|'.join(AGES)}) (?:{'|'.join(SORTS)})",
    ))
)  # fmt: skip


def subjects(text):
    """The names of invented subjects; of animals and things as they stand in a sentence."""
    return [n if n.istitle() else n[0].lower() + n[1:] for n in SUBJECTS.findall(text)]


RULED = re.compile("Every |No |Some ")


def told(text):
    """The subjects of two texts; and of a kind, or of an animal claimed of, with its value."""
    found = subjects(text)
    premise, hypothesis = text.split("\n")
    for line in [hypothesis, *([premise] if RULED.match(premise) else [])]:
        who, _, _, value, _ = claims(line[:-1])[0]
        noun = who.split()[-1]
        if RULED.match(line) or noun in SORTS:
            found.append(f"{SORTS.get(noun, noun)} {value}")
    return found


def asked(text):
    """The entity that a question on facts names, or the question about a list."""
    named = [e.name for e in WORLD.places + WORLD.people if re.search(rf"\b{e.name}\b", text)]
    return [text] if text.startswith("What goes under") else [max(named, key=len)]


def joined(e):
    """What a summary joins: its noun, or where nothing stands before the noun its last part."""
    spec = CATEGORIES[e.kind]
    *front, tail = gist(e.kind)
    befores = [f"{v} " for s in front for v in spec.slots[s].values] or [""]
    for noun in (a(before + kind) for before in befores for kind in spec.kinds):
        for v in spec.slots[tail].values:
            if e.target.endswith(f" is {noun} {spec.slots[tail].tails[0].format(v=v)}."):
                return [f"{noun} {'' if front else v}"]
    raise AssertionError(e.target)


KEYS = {  # task: the texts of an example whose hash decides where it belongs
    "sentiment": lambda e, x: [x],
    "sentiment-shift": lambda e, x: [x.split(": ", 1)[1]],
    **dict.fromkeys(("nli", "nli-shift"), lambda e, x: told(x)),
    **dict.fromkeys(("paraphrase", "acceptability"), lambda e, x: subjects(x)),
    "choice": lambda e, x: asked(x),
    "truth": lambda e, x: asked(x),
    "table-to-text": lambda e, x: [x],
    **dict.fromkeys(("remap", "remap-new", "remap-route", "remap-values"), lambda e, x: [x]),
    "summary": lambda e, x: joined(e),
    "unscramble": lambda e, x: ["".join(sorted(x.replace(" ", "")))],
}


def test_a_text_belongs_to_its_split_by_its_hash(task):
    """Not only do the splits share nothing here: no seed and no size can bring it about."""
    if task.name not in KEYS:
        assert task.name == "new-facts"  # whose splits are other questions on the same facts
        return
    for split in (s for s in task.splits if s not in ("unseen", "transfer")):
        part = split if split in ("train", "validation") else "test"
        for seed in (0, 3):
            for e in task.load(split, 80, seed):
                keys = KEYS[task.name](e, "\n".join(parts(e, task.patterns[0])))
                assert keys and {part_of(key) for key in keys} == {part}, (keys, e)


def test_a_hash_shares_texts_out_in_tenths():
    counts = Counter(part_of(f"sentence {i}") for i in range(5000))
    for part, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(counts[part] / 5000 - share) < 0.02
    assert [part_of(c) for c in "aei"] == ["train", "test", "validation"]  # on every machine


def test_words_that_are_never_spelt_are_those_of_no_training_text():
    words = {e.target.replace(" ", "") for e in get_task("unscramble").load("unseen", 300)}
    assert words and {split_of(w) for w in words} == {"validation"}
    spelt = {e.target.replace(" ", "") for e in get_task("unscramble").load("train", 300)}
    for word in spelt:  # it, or a word of the same letters, is spelt in the pretraining text
        same = [w for w in LETTER_WORDS if sorted(w) == sorted(word)]
        assert "train" in {split_of(w) for w in same}


class Counted(Task):
    """Shows what `load` asks for."""

    name, splits, sizes, largest = "counted", ("train", "test", "shift"), (7, 3, 5), 9
    patterns = (Pattern("{x}"), Pattern("x: {x}"))

    def _draw(self, split, n, seed, pattern):
        return [Example(pattern.template, f" {split}", label=seed)] * n


def test_a_split_has_its_own_size_unless_told():
    task = Counted()
    assert [len(task.load(s)) for s in task.splits] == [7, 3, 5]
    assert len(task.load("test", 1)) == 1 and len(task.load("test", 9)) == 9
    assert task.load("shift", 1, 4, 1) == [Example("x: {x}", " shift", label=4)]
    for n in (0, 10, True, 2.0):
        with pytest.raises(ValueError, match="n must be an integer from 1 to 9, got"):
            task.load("test", n)


def test_the_majority_is_the_commonest_label():
    examples = [Example("", "", label=i) for i in (2, 0, 0, 1, 0)]
    assert majority(examples) == 60.0 and majority(examples[:1]) == 100.0
    assert majority(examples[2:4]) == 50.0


@pytest.mark.parametrize("n", [60, 120])
def test_labels_are_balanced(task, n):
    if task.kind != "classification":
        return
    examples = task.load("train", n if task.name != "new-facts" else 50)
    counts = Counter(e.label for e in examples)
    classes = len(examples[0].options)
    if task.patterns[0].words:  # classes: in turn, so that every whole round is even
        assert set(counts.values()) == {n // classes}
    else:  # options in random order
        assert all(0.3 < counts[i] * classes / len(examples) < 2.0 for i in range(classes))


@pytest.mark.parametrize("name", DIGESTS)
def test_the_same_bytes_every_time(name):
    """Digests of the text; each changes only with its task's own grammar."""
    task = get_task(name)
    text = "\n".join(e.prompt + e.target for s in task.splits for e in task.load(s, 50))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[name]
