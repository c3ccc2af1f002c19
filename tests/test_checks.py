"""Arguments are checked before anything is done, and NumPy's numbers are Python's."""

import inspect
import json
import math
import re

import numpy as np
import pytest

from minipeft.checks import nearest, one_of, real, takes, whole
from minipeft.generation.beams import beam_search
from minipeft.generation.sampling import generate, generate_many
from minipeft.generation.scoring import score_many
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit
from minipeft.training.optim import SGD, AdamW, Schedule
from minipeft.training.optimizers import Muon
from minipeft.training.resume import Checkpoint
from tests.short_runs import VOCAB, lora, run
from tests.tiny import Rows, Sounds, gpt

WHOLE = (0, -1, 1.5, 2.0, True, np.True_, "3", np.float64(2), np.array(2), math.nan)
NUMBERS = (math.nan, math.inf, -math.inf, True, np.True_, "0.1", np.array(0.1), 1j)


class Untouched(Rows):
    """Batches that nobody may ask for."""

    def __init__(self):
        super().__init__(VOCAB)

    def batch(self, step, size, seed):
        raise AssertionError("a step began")


@pytest.mark.parametrize(
    "name",
    ["steps", "batch", "accumulate", "threads", "n"],
)
@pytest.mark.parametrize("value", WHOLE)
def test_counts_of_a_run_are_whole(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number >= 1, got "):
        run(task=Untouched(), **{"steps": 2, name: value})


@pytest.mark.parametrize("name", ["seed", "paged"])
@pytest.mark.parametrize("value", [v for v in WHOLE if v is not WHOLE[0]])
def test_seeds_and_bytes_are_whole(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number >= 0, got "):
        run(task=Untouched(), **{name: value})


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("lr", (-1e-9, *NUMBERS), "a finite number >= 0, got "),
        ("decay", (-0.1, *NUMBERS), "a finite number >= 0, got "),
        ("clip", (0, -1, *NUMBERS), r"a finite number > 0 \(None sets no limit\), got "),
        ("smoothing", (2, 1, -0.1, *NUMBERS), r"in \[0, 1\), got "),
    ],
)
def test_rates_and_shares_of_a_run_are_in_range(name, wrong, message):
    for value in wrong:
        with pytest.raises(ValueError, match=f"^{name} must be {message}"):
            run(task=Untouched(), **{name: value})


@pytest.mark.parametrize("value", WHOLE)
def test_evaluations_and_checkpoints_are_made_after_whole_steps(value):
    for name in ("every", "patience"):
        with pytest.raises(ValueError, match=f"^Evaluation: {name} must be a whole number >= 1,"):
            Evaluation(lambda m: {"x": 1.0}, keep="x", **{name: value})
    with pytest.raises(ValueError, match="^Checkpoint: every must be a whole number >= 1, "):
        Checkpoint("state", value)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("decline", 'schedule="cosine", or schedule=Schedule'),
        ("warmup", "schedule=Schedule"),
        ("evaluate_every", "evaluation=Evaluation(of, every=…)"),
        ("keep", "evaluation=Evaluation"),
        ("patience", "evaluation=Evaluation"),
        ("save_every", "checkpoint=Checkpoint"),
        ("out", "contextlib.redirect_stdout"),
    ],
)
def test_a_keyword_that_is_gone_names_the_new_way(name, way):
    with pytest.raises(TypeError, match=f"^{name} has moved: {re.escape(way)}"):
        run(task=Untouched(), **{name: 1})


def test_names_and_functions_of_a_run_are_checked_first():
    for settings, message in (
        ({"schedule": "down"}, "Schedule: decline must be 'constant', 'linear', "),
        ({"optimizer": "adam"}, "optimizer must be"),
        ({"evaluation": {"loss": 1.0}}, "evaluation= must be a function, got {'loss': 1.0}"),
        ({"watch": 3}, "watch= must be a function, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            run(task=Untouched(), **settings)


def test_numpys_numbers_are_pythons(tmp_path):
    f32, i64 = np.float32, np.int64
    same = {
        "steps": (i64(3), 3), "lr": (f32(1e-2), float(f32(1e-2))), "batch": (np.uint8(3), 3),
        "seed": (i64(3), 3), "decay": (f32(0.5), 0.5),
        "schedule": (Schedule(warmup=np.float16(0.5)), Schedule(warmup=0.5)),
        "clip": (f32(0.25), 0.25), "accumulate": (np.int32(2), 2), "smoothing": (f32(0.125), 0.125),
        "threads": (i64(1), 1),
    }  # fmt: skip
    runs = []
    for which, file in enumerate((tmp_path / "numpy", tmp_path / "python")):
        history, _ = run(
            checkpoint=Checkpoint(file, (i64(2), 2)[which]),
            evaluation=Evaluation(
                lambda m: {"x": np.float32(0.5), "k": np.int64(4)}, (i64(2), 2)[which],
                "x", (i64(5), 5)[which],
            ),
            **{name: values[which] for name, values in same.items()},
        )  # fmt: skip
        numbers = [*history.loss, *history.lr, *history.seconds]
        assert {type(x) for x in numbers} == {float}
        assert [list(map(type, e.values())) for e in history.evaluations] == [
            [float, float, int]
        ] * 2
        assert json.loads(json.dumps(history.evaluations)) == history.evaluations
        runs.append((history.loss, history.lr, history.evaluations))
    assert runs[0] == runs[1]
    # the one's state is the other's, too
    judged = Evaluation(lambda m: {"x": 0.5, "k": 4}, 2, "x", 5)
    history, _ = run(checkpoint=tmp_path / "numpy", evaluation=judged,
                     **{name: python for name, (_, python) in same.items()})  # fmt: skip
    assert history.loss == runs[0][0]
    task = Sounds()
    counts = {"n": np.int32(4), "batch": i64(2), "seed": i64(0)}
    assert evaluate(gpt(2), task, **counts) == evaluate(gpt(2), task, n=4, batch=2)
    fit(gpt(), task, steps=1, lr=0.1, n=np.int32(4), quiet=True)


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        ({"x": "0.5"}, TypeError, "must return numbers, but 'x' is '0.5'"),
        ({"x": 1.0, "y": None}, TypeError, "but 'y' is None"),
        ({"x": np.ones(2)}, TypeError, "but 'x' is array"),
        ({"x": True}, TypeError, "but 'x' is True"),
        ({"x": np.True_}, TypeError, "but 'x' is (np.)?True"),
        (0.5, TypeError, "must return a dict of numbers, got 0.5"),
        (None, TypeError, "must return a dict of numbers, got None"),
        ({"step": 1.0}, ValueError, "returns 'step', which the history has"),
    ],
)
def test_what_an_evaluation_returns_are_numbers(found, error, message):
    done = []
    with pytest.raises(error, match=message):
        run(4, evaluation=Evaluation(lambda m: found, every=2), watch=done.append)
    assert done == [0, 1]  # the first evaluation told


# -- evaluation and generation --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n", "batch"])
@pytest.mark.parametrize("value", WHOLE)
def test_counts_of_an_evaluation_are_whole(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number >= 1, got "):
        evaluate(gpt(), Sounds(), **{name: value})
    if name == "batch":
        for ask in (
            lambda: mean_loss(gpt(), [], batch=value),
            lambda: score_many(gpt(), [("the cat", (" meows",))], batch=value),
            lambda: generate_many(gpt(), ["the cat"], batch=value),
        ):
            with pytest.raises(ValueError, match="^batch must be a whole number >= 1, got "):
                ask()


@pytest.mark.parametrize("value", WHOLE)
def test_counts_of_generation_are_whole(value):
    for ask, name in ((generate, "max_tokens"), (generate, "top_k"), (beam_search, "beams"),
                      (beam_search, "max_tokens")):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name} must be a whole number >= 1, got "):
            ask(gpt(), "the cat", **{name: value})
    if value != 0:
        for ask, name in ((generate, "seed"), (beam_search, "no_repeat")):
            with pytest.raises(ValueError, match=f"^{name} must be a whole number >= 0, got "):
                ask(gpt(), "the cat", **{name: value})


@pytest.mark.parametrize("value", NUMBERS)
def test_settings_of_generation_are_in_range(value):
    for ask, name, message in (
        (generate, "temperature", r"a finite number >= 0 \(0 is greedy\)"),
        (generate, "top_p", r"in \(0, 1\]"),
        (beam_search, "length_penalty", "a finite number"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be {message}, got "):
            ask(gpt(), "the cat", **{name: value})


def test_numpys_numbers_generate_too():
    settings = {"max_tokens": 4, "temperature": 0.5, "top_k": 5, "top_p": 0.75, "seed": 3}
    kinds = {int: np.int64, float: np.float32}
    others = {name: kinds[type(value)](value) for name, value in settings.items()}
    assert generate(gpt(), "the cat", **others) == generate(gpt(), "the cat", **settings)
    settings = {"beams": 3, "max_tokens": 3, "length_penalty": 0.5, "no_repeat": 2}
    others = {name: kinds[type(value)](value) for name, value in settings.items()}
    assert beam_search(gpt(), "the cat", **others) == beam_search(gpt(), "the cat", **settings)


# -- optimizers -----------------------------------------------------------------------------------


def test_settings_of_optimizers_are_in_range():
    params = [(path, p) for path, p in lora()[0].named_parameters() if p.requires_grad]
    for make, settings, message in (
        (AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1.0"),
        (AdamW, {"betas": (-0.1, 0.9)}, r"betas\[0\] must be in \[0, 1\), got -0.1"),
        (AdamW, {"eps": 0.0}, "eps must be a finite number > 0, got 0.0"),
        (SGD, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        (Muon, {"momentum": -1.0}, r"momentum must be in \[0, 1\), got -1.0"),
        (SGD, {"decay": math.inf}, "decay must be a finite number >= 0, got inf"),
    ):
        with pytest.raises(ValueError, match=message):
            make(params, **{"lr": 0.1} | settings)
    for warmup in (10, -1, 1.01, *NUMBERS):
        with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\] \(a share of the steps"):
            Schedule("linear", warmup)


# -- takes ----------------------------------------------------------------------------------------


@takes(a=whole(1, 9), b=real(-1, 1))
def told(a, *rest, b: float | None = 0.5):
    """What came."""
    return a, rest, b


def test_a_checked_function_is_called_as_before():
    assert told(np.int8(3)) == (3, (), 0.5) and type(told(np.int8(3))[0]) is int
    assert told(3, 4, 5, b=np.float32(0.25)) == (3, (4, 5), 0.25)
    assert [told(a, b=b) for a, b in ((1, -1), (9, 1))] == [(1, (), -1.0), (9, (), 1.0)]  # the ends
    assert told(a=3, b=None) == (3, (), None)  # None where the annotation has it
    assert told.__doc__ == "What came." and list(inspect.signature(told).parameters)[0] == "a"
    for wrong, message in (
        ({}, "missing 1 required positional argument: 'a'"),
        ({"a": 1, "c": 2}, r"told\(\) got an unexpected keyword argument 'c'"),
    ):
        with pytest.raises(TypeError, match=message):
            told(**wrong)
    with pytest.raises(ValueError, match="a must be a whole number from 1 to 9, got None"):
        told(None)
    for value in (10, 0):
        with pytest.raises(ValueError, match="a must be a whole number from 1 to 9"):
            told(value)
    for value in (-1.01, 1.01):
        with pytest.raises(ValueError, match=r"b must be in \[-1, 1\]"):
            told(1, b=value)


def test_the_nearest_choice_is_found_in_any_case():
    names = ("LoRA", "BitFit", "Subspace")
    assert nearest("lora", names) == nearest("LRA", names, close=True) == "LoRA"
    assert nearest("qqq", names, close=True) == "" and nearest("qqq", names) in names
    assert nearest("x", ()) == "" and nearest("bitfit" + "x" * 10**6, names) in names
    assert nearest(None, names) in names


def test_one_of_a_few_words():
    check = one_of("hard", "soft")
    assert check("mode", "soft") == "soft"
    with pytest.raises(ValueError, match="mode must be 'hard' or 'soft', got 'sof'; did you mean"):
        check("mode", "sof")
    with pytest.raises(ValueError, match="mode must be 'hard' or 'soft', got 7$"):
        check("mode", 7)
    with pytest.raises(ValueError, match="mode must be 'on', got 'off'"):
        one_of("on")("mode", "off")
