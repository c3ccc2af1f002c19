"""An adapter's place on the leaderboard: counted and scored by the library, or refused by name."""

import json

import numpy as np
import pytest
import safetensors.numpy

from minipeft.contract import attach
from minipeft.course.grading import leaderboard
from minipeft.course.grading.leaderboard import Refused, enter, told_error
from minipeft.methods import BitFit, LoRA
from minipeft.models import GPT, GPTConfig
from minipeft.storage.checkpoint import load_model, save_arrays
from minipeft.tasks import get_task
from tests.clitools import small_base  # noqa: F401


def saved(path, method, seed=1, **more):
    at = attach(load_model("tiny-gpt"), method, **more)
    rng = np.random.default_rng(seed)
    for _, p in at.trainable():
        p.data = rng.normal(0, 0.1, p.shape).astype(p.dtype)
    at.save(path)
    return at


def test_an_adapter_is_counted_and_scored(tmp_path):
    at = saved(tmp_path / "a.safetensors", LoRA(r=1))
    entry = enter(tmp_path / "a.safetensors", n=3)
    assert entry.name == "a" and entry.method == "lora"
    assert entry.trained == at.count() == 2 * 2 * (8 + 8)
    assert entry.share == at.count() / at.total < 0.01
    assert 0 <= entry.error
    first, second = entry.rows()
    assert first == {"name": "slot error (%)", "value": round(entry.error, 2), "order": "asc"}
    assert second["value"] == entry.trained and second["order"] == "asc"
    assert f"{entry.trained:,} trained parameters" in str(entry)


def test_the_seed_draws_the_records(tmp_path, monkeypatch):
    saved(tmp_path / "a.safetensors", LoRA(r=1))
    asked = []
    monkeypatch.setattr(leaderboard, "generate_many", lambda m, p: asked.append(p) or [""] * len(p))
    for seed in (0, 0, 1):
        assert enter(tmp_path / "a.safetensors", n=5, seed=seed).error == 100.0
    assert asked[0] == asked[1] != asked[2]


def test_more_than_one_percent_is_refused(tmp_path):
    at = saved(tmp_path / "a.safetensors", LoRA(r=8, targets="all-linear"))
    assert at.count() > 0.01 * at.total
    says = rf"holds {at.count():,} numbers, .* of the base's {at.total:,} parameters; at most "
    with pytest.raises(Refused, match=says):
        enter(tmp_path / "a.safetensors")


def test_the_head_counts_too(tmp_path, monkeypatch):
    saved(tmp_path / "a.safetensors", BitFit())
    enter(tmp_path / "a.safetensors", n=1)
    at = type(attach(load_model("tiny-gpt"), BitFit()))
    monkeypatch.setattr(at, "count_head", lambda self: self.total // 100)
    with pytest.raises(Refused, match="take part"):
        enter(tmp_path / "a.safetensors", n=1)


def test_what_does_not_train_counts_too(tmp_path, monkeypatch):
    """A mask, or the codes of weights, could hold another base."""
    at = saved(tmp_path / "a.safetensors", LoRA(r=1))
    large = {"state:mask": np.zeros(at.total // 100 + 1, np.uint8)}
    monkeypatch.setattr(leaderboard, "read", lambda path: (large, {}))
    with pytest.raises(Refused, match=f"trains or holds {at.total // 100 + 1:,} numbers"):
        enter(tmp_path / "a.safetensors", n=1)


def other_base(path):
    model = GPT(
        GPTConfig(
            vocab=2000,
            context=160,
            width=8,
            layers=2,
            heads=2,
        ),
        seed=5,
    )
    attach(model, LoRA(r=1)).save(path)


def cut_short(path):
    saved(path, LoRA(r=1))
    path.write_bytes(path.read_bytes()[:-3])


def code(path):
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")


def huge(path):
    saved(path, LoRA(r=1))
    with path.open("ab") as out:
        out.truncate(leaderboard.LARGEST + 1)


def a_model(path):
    save_arrays(path, {"a": np.zeros(3)}, {"format": "minipeft"})


def wrong_fields(path):
    saved(path, LoRA(r=1))
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    facts = json.loads(data[8 : 8 + n])["__metadata__"]
    facts.pop("digest")
    facts["fields"] = json.dumps({"r": 10**9, "nonsense": []})
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(arrays, path, facts)


def endless(path):
    saved(path, LoRA(r=1))
    arrays = safetensors.numpy.load_file(path)
    arrays = {k: np.full_like(a, np.inf) for k, a in arrays.items()}
    safetensors.numpy.save_file(arrays, path, {"format": "minipeft-adapter"})


def nothing(path):
    pass


def link(path):
    saved(path.with_name("b.safetensors"), LoRA(r=1))
    path.symlink_to(path.with_name("b.safetensors"))


@pytest.mark.parametrize(
    "make", [other_base, cut_short, code, huge, a_model, wrong_fields, endless, nothing, link]
)
def test_a_hostile_file_is_refused(tmp_path, make):
    make(tmp_path / "a.safetensors")
    with pytest.raises(Refused, match=r"^a\.safetensors") as told:
        enter(tmp_path / "a.safetensors", n=1)
    assert len(str(told.value)) < 1200


def test_slots_left_out_and_made_up_count():
    examples = get_task(leaderboard.TASK).load("test", n=6)
    right = [e.target for e in examples]
    assert told_error(right, examples) == 0.0
    total = sum(len(e.slots) for e in examples)
    value, other = examples[0].slots[1], max(examples[1].slots, key=len)
    assert other not in right[0]
    less = [right[0].replace(value, "thing"), *right[1:]]
    assert told_error(less, examples) == pytest.approx(100 / total)
    more = [right[0] + f" {other}!", *right[1:]]
    assert told_error(more, examples) >= 100 / total
    after = [right[0] + f"\n{other}!", *right[1:]]  # a text ends with its line
    assert told_error(after, examples) == 0.0


def test_what_is_no_advertisement_tells_nothing():
    examples = get_task(leaderboard.TASK).load("test", n=4)
    tables = [e.prompt.removesuffix(" =>") for e in examples]
    assert told_error(tables, examples) == 100.0
