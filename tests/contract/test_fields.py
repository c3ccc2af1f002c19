"""Settings of methods: made plain or refused when they are given, so that all of them are saved."""

import dataclasses
import json
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from minipeft.contract import Method, attach
from minipeft.methods import METHODS, AdaLoRA, LoRA, Magnitude, Movement
from minipeft.methods import load_adapter as load
from tests.methods.contract import CASES

WIDE = {"float": [np.float32, np.float64, np.float16, int], "bool": [np.bool_],
        "int": [np.int16, np.int64, np.uint16]}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_numpys_numbers_are_made_plain(name):
    """Every field of every method, in every type that NumPy has for it."""
    kind = METHODS[name]
    for field in dataclasses.fields(kind):
        value = field.default
        for wide in WIDE.get(type(value).__name__, []):
            if wide is int and value != int(value):
                continue
            made = getattr(kind(**{field.name: wide(value)}), field.name)
            assert type(made) is type(value) and made == pytest.approx(value, rel=1e-3), field.name
        if type(value) is str:
            assert type(getattr(kind(**{field.name: np.str_(value)}), field.name)) is str
        if type(value) is tuple:
            given = [np.str_(v) for v in value]
            assert getattr(kind(**{field.name: given}), field.name) == value
    json.dumps(dataclasses.asdict(kind()))


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"alpha": np.float32(8), "seed": np.int64(3)}, LoRA(alpha=8.0, seed=3)),
        ({"r": np.int64(4), "rslora": np.True_}, LoRA(r=4, rslora=True)),
        ({"targets": ["q_proj", np.str_("k_proj")]}, LoRA(targets=("q_proj", "k_proj"))),
        ({"alpha": 8}, LoRA(alpha=8.0)),
    ],
)
def test_what_was_given_in_numpys_types_trains_and_is_saved(given, plain, tmp_path):
    method = LoRA(**given)
    assert method == plain and hash(method) == hash(plain) and repr(method) == repr(plain)
    attach(CASES["lora"].model(), method).save(tmp_path / "a")
    assert load(CASES["lora"].model(), tmp_path / "a").method == plain


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(targets={"q_proj"}), r"a set, which has no order: write \('q_proj',\)"),
        (lambda: LoRA(fused=frozenset("ab")), r"a set, which has no order: write \('a', 'b'\)"),
        (lambda: LoRA(targets=Path("q_proj")), "targets must be .*, got .*Path"),
        (lambda: LoRA(targets=("q_proj", 3)), r"got \('q_proj', 3\)"),
        (lambda: LoRA(targets=(Path("q"),)), "targets must be"),
        (lambda: LoRA(targets=b"q_proj"), "got b'q_proj'"),
        (lambda: LoRA(targets={"q_proj": 1}), "got {'q_proj': 1}"),
        (lambda: LoRA(targets=None), "got None"),
        (lambda: LoRA(fused="q_proj"), r"fused must be tuple\[str, ...\], got 'q_proj'"),
        (lambda: LoRA(alpha="8"), "alpha must be float, got '8'"),
        (lambda: LoRA(alpha=True), "alpha must be float, got True"),
        (lambda: LoRA(alpha=1j), "alpha must be float, got 1j"),
        (lambda: LoRA(alpha=np.ones(2)), "alpha must be float, got array"),
        (lambda: LoRA(r=8.0), "r must be int, got 8.0"),
        (lambda: LoRA(r=np.True_), "r must be int, got True"),
        (lambda: LoRA(r=np.float32(8)), "r must be int, got 8.0"),
        (lambda: LoRA(rslora="no"), "rslora must be bool, got 'no'"),
        (lambda: LoRA(rslora=1), "rslora must be bool, got 1"),
        (lambda: LoRA(seed=None), "seed must be int, got None"),
        (lambda: LoRA(init=3), "init must be str, got 3"),
        (lambda: LoRA(init="x" * 500), "init must be 'normal'"),
        (lambda: Movement(bias=np.int64(1)), "bias must be bool, got 1"),
        (lambda: Magnitude(s=True), "s must be float, got True"),
        (lambda: AdaLoRA(target=2.5), r"target must be int \| None, got 2.5"),
    ],
)
def test_what_no_file_would_give_back_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_named_tuple_is_a_tuple():
    assert LoRA(targets=Pair("q_proj", "v_proj")) == LoRA()
    assert type(LoRA(targets=Pair("q_proj", "v_proj")).targets) is tuple


def test_a_users_own_method_has_the_same_help():
    @dataclass(frozen=True)
    class Own(Method):
        name: ClassVar[str] = "own"
        compose: ClassVar[str] = "parameter"
        share: float | None = None
        words: "tuple[str, ...] | None" = ()

    assert Own(share=np.float32(2)).share == 2.0 and Own(words=["a"]).words == ("a",)
    assert Own(words=None).words is None
    with pytest.raises(ValueError, match="Own: share must be float | None, got 'x'"):
        Own(share="x")
