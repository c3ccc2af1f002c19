"""As many BLAS threads as the matrices are worth: by sizes alone, within what the user set."""

import os
import subprocess
import sys
import threading

import pytest

from minipeft.contract import attach
from minipeft.course import notebooks as lectures
from minipeft.engine import blas
from minipeft.engine.blas import (
    THREADS,
    blas_threads,
    limit_threads,
    one_thread,
    threads_for,
    worth,
)
from minipeft.generation.beams import beam_search
from minipeft.generation.sampling import generate, generate_many
from minipeft.generation.scoring import score_many
from minipeft.methods import LoRA
from minipeft.models import GPT, GPTConfig, build, preset
from minipeft.nn import Linear, Module
from minipeft.storage.checkpoint import load_arrays
from minipeft.training.batches import TaskBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit
from minipeft.training.resume import machine
from tests.tiny import Rows, Sounds, gpt, tokenizer

SHIPPED = ("tiny-gpt", "gpt-0.2m", "gpt-3.1m", "tiny-bert", "tiny-vit")
VOCAB = tokenizer().vocab_size


class Library:
    """A BLAS that counts how often it is told something."""

    internal_api, architecture = "made", "Up"

    def __init__(self, threads):
        self.threads, self.told = threads, []

    def get_num_threads(self):
        return self.threads

    def set_num_threads(self, n):
        self.threads = n
        self.told.append(n)


@pytest.fixture
def library(monkeypatch):
    """A made library of 8 threads in place of the real ones."""
    made = Library(8)
    monkeypatch.setattr(blas, "_libraries", lambda: [made])
    return made


# -- the rule ---------------------------------------------------------------------------------


def test_shipped_models_get_one_thread_whatever_the_batch():
    for name in SHIPPED:
        model = build(preset(name), init="shape")
        assert [threads_for(model, rows) for rows in (1, 16, 64, 4096)] == [1] * 4, name


def test_wide_products_get_a_thread_for_every_piece():
    assert worth(384, 8 * 128) == 4  # 1.21 GFLOP, four pieces of 0.25
    assert worth(768, 2 * 128) == 4
    assert worth(768, 4096 * 128) > 1000
    tokens = round(2 * blas.PIECE / (8 * 768**2))
    assert [worth(768, tokens + n) for n in (-1, 1)] == [1, 2]


def test_narrow_ones_and_single_rows_get_one():
    assert worth(255, 10**6) == 1 and worth(256, 10**6) > 1
    assert worth(768, 1) == worth(12288, 0) == 1


def test_a_picture_counts_by_its_patches_and_one_token_more(monkeypatch):
    monkeypatch.setattr(blas, "PIECE", 8 * 768**2)  # a token's work
    assert threads_for(build(preset("vit-base"), init="shape"), 2) == 2 * (14 * 14 + 1)


def test_a_variable_that_is_empty_is_not_set():
    ones = dict.fromkeys(THREADS, "1")
    assert one_thread({"OMP_NUM_THREADS": "", "PATH": "x"}) == ones | {"PATH": "x"}


def test_a_model_counts_by_its_context_wherever_it_stands():
    config = GPTConfig(vocab=64, context=128, width=384, layers=1, heads=2)
    model = GPT(config, init="shape")
    assert threads_for(model, 8) == threads_for(model, 16, length=64) == worth(384, 1024) == 4
    own = Module()
    own.inner = model
    assert threads_for(own, 8) == 4
    assert threads_for(Linear(4, 4), 10**6) == 1
    assert threads_for(build(preset("vit-base"), init="shape"), 4) == worth(768, 4 * 197)


# -- the limit --------------------------------------------------------------------------------


def test_what_was_set_is_the_most_and_comes_back(library):
    for wanted, given in ((1, 1), (3, 3), (8, 8), (100, 8)):
        with blas_threads(wanted):
            assert library.threads == given
        assert library.threads == 8


def test_it_comes_back_after_an_error(library):
    with pytest.raises(KeyboardInterrupt), blas_threads(2):
        raise KeyboardInterrupt
    assert library.threads == 8


def test_nested_limits_are_each_ones_own(library):
    with blas_threads(4):
        with blas_threads(1):
            assert library.threads == 1
        assert library.threads == 4
        with blas_threads(6):
            assert library.threads == 6
        assert library.threads == 4
    assert library.threads == 8


def test_a_nested_limit_of_the_same_number_tells_the_library_nothing(library):
    with blas_threads(1):
        for _ in range(100):
            with blas_threads(1):
                pass
    assert library.told == [1, 8]


def test_limits_of_threads_that_overlap_end_in_any_order(library):
    inside, go = threading.Event(), threading.Event()

    def other():
        with blas_threads(1):
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=other)
    with blas_threads(2):
        thread.start()
        assert inside.wait(10) and library.threads == 1
    assert library.threads == 1  # the other one is still inside
    go.set()
    thread.join()
    assert library.threads == 8


def test_each_library_keeps_its_own_number(monkeypatch):
    made = [Library(8), Library(2)]
    monkeypatch.setattr(blas, "_libraries", lambda: made)
    with blas_threads(4):
        assert [one.threads for one in made] == [4, 2]
    assert [one.threads for one in made] == [8, 2]
    limit_threads(3)
    assert [one.threads for one in made] == [3, 2]


def test_the_state_of_a_run_tells_the_threads_inside(library):
    with blas_threads(2):
        assert machine().endswith("made Up with 2 threads")
    with blas_threads(1):
        assert machine().endswith("made Up with 1 thread")


# -- who limits -------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """A small GPT, and the threads that its forward passes had; every token is worth a thread."""
    made, found = Library(1000), []
    monkeypatch.setattr(blas, "_libraries", lambda: [made])
    monkeypatch.setattr(blas, "NARROW", 1)
    monkeypatch.setattr(blas, "PIECE", 8 * 16**2)
    model = gpt()  # 16 wide, with a context of 24
    forward = model.forward

    def watched(*args, **kwargs):
        found.append(made.threads)
        return forward(*args, **kwargs)

    model.forward = watched
    yield model, found
    assert made.threads == 1000


def test_fit_has_the_threads_of_its_batch(seen):
    model, found = seen
    attach(model, LoRA(r=2))
    fit(model, Rows(VOCAB), steps=2, batch=3, quiet=True)
    assert found == [3 * 24] * 2
    found.clear()
    fit(model, Rows(VOCAB), steps=2, batch=4, threads=2, quiet=True)
    assert found == [1] * 4  # the threads are those of the parts


def test_an_evaluation_inside_fit_is_the_one_outside(seen):
    model, found = seen
    attach(model, LoRA(r=2))
    source = TaskBatches.of(model, Sounds().load("validation"))

    def evaluation(m):
        return {"loss": mean_loss(m, source, 5)}

    fit(model, Rows(VOCAB), steps=2, batch=3, evaluation=Evaluation(evaluation, every=1),
        quiet=True)  # fmt: skip
    assert found == [72, 120, 120] * 2  # two batches hold the six examples


def test_a_state_is_written_and_read_under_the_same_limit(seen, tmp_path, recwarn):
    model, _ = seen
    attach(model, LoRA(r=2))
    for _ in range(2):
        fit(model, Rows(VOCAB), steps=2, batch=3, checkpoint=tmp_path / "state", quiet=True)
    assert not recwarn.list
    assert "made Up with 72 threads" in load_arrays(tmp_path / "state")[1]["machine"]


def test_evaluate_has_the_threads_of_its_batch(seen):
    model, found = seen
    evaluate(model, Sounds(), batch=4)
    assert found[:2] == [4 * 24] * 2 and 1 < min(found) <= max(found) <= 96


def test_a_classifier_is_evaluated_with_the_threads_of_its_batch(seen):
    model, found = seen
    head = gpt(head="linear", classes=5)
    for name in ("emb", "blocks", "ln_f", "head", "config"):
        setattr(model, name, getattr(head, name))
    evaluate(model, Sounds(), batch=4)
    assert found == [4 * 24] * 4  # losses, then classes


def test_scoring_has_the_threads_of_its_rows(seen):
    model, found = seen
    score_many(model, [("the cat", [" meows"]), ("a", [" moos"])])
    ids = tokenizer().encode_many(["the cat", "a"])
    assert found == [2 * max(map(len, ids))]


def test_generation_has_the_threads_of_a_token_in_each_row(seen):
    model, found = seen
    generate(model, "the cat", max_tokens=3)
    assert set(found) == {1}
    found.clear()
    generate_many(model, ["the cat", "a", "the dog", "the owl sleeps"], batch=3, max_tokens=3)
    assert set(found) == {1, 3}
    found.clear()
    beam_search(model, "the cat", beams=5, max_tokens=3)
    assert set(found) == {5}


def test_the_kernels_of_lectures_have_one_thread_unless_the_user_set_some(monkeypatch):
    seen = []

    def run(command, **settings):
        seen.append({name: settings["env"].get(name) for name in THREADS})
        assert settings["env"]["PATH"] == os.environ["PATH"]
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(lectures.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(lectures.subprocess, "run", run)
    for name in THREADS:
        monkeypatch.delenv(name)
    lectures.open_one("1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    lectures.open_one("1")
    none = dict.fromkeys(THREADS)
    assert seen == [dict.fromkeys(THREADS, "1"), none | {"OMP_NUM_THREADS": "3"}]


# -- the real library -------------------------------------------------------------------------

REAL = """
import numpy, sys
from minipeft import fit
from minipeft.training.batches import Batch
from minipeft.engine.blas import _libraries, blas_threads
from minipeft import Full, attach
from minipeft.models import GPT, GPTConfig
assert "threadpoolctl" not in sys.modules
seen = []
class Rows:
    def batch(self, step, size, seed):
        seen.append(_libraries()[0].get_num_threads())
        ids = numpy.ones((size, 4), int)
        return Batch(ids, ids, ids > 0)
model = GPT(GPTConfig(vocab=9, context=4, width=8, layers=1, heads=1))
attach(model, Full())
before = _libraries()[0].get_num_threads()
fit(model, Rows(), steps=1, batch=2, quiet=True)
print(before, seen, _libraries()[0].get_num_threads())
"""


@pytest.mark.parametrize("asked", ["1", "2"])
def test_the_real_library_obeys_and_the_users_number_comes_back(asked):
    if sys.platform == "darwin":
        pytest.skip("BLAS: this system's own has no such limit")
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True,
                          env=env | {"OPENBLAS_NUM_THREADS": asked})  # fmt: skip
    most = min(int(asked), len(os.sched_getaffinity(0)))
    assert done.stdout.split("\n")[0] == f"{most} [1] {most}"
