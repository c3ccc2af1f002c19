"""On a device: what goes over the bus, and that the package asks for nothing that CuPy lacks.

The device is tests/fakecupy.py, a strict stand-in; where CuPy sees a GPU the tests marked gpu
run on that.
"""

import ast
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from minipeft.backend import Rng, to_numpy, xp_of
from minipeft.contract import attach
from minipeft.contract.watching import outputs
from minipeft.engine import no_grad
from minipeft.generation.sampling import generate
from minipeft.generation.scoring import score
from minipeft.methods import METHODS, LoRA
from minipeft.models import BERT, BERTConfig, ViT, ViTConfig
from minipeft.training.batches import Batch, TaskBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.loop import fit
from minipeft.training.optimizers import OPTIMIZERS
from minipeft.training.step import upload
from tests import fakecupy
from tests.cupy_names import FILE, lines, table
from tests.fakecupy import transfers
from tests.tiny import PAIRS, Rows, Sounds, encoder, gpt, tokenizer

PACKAGE = Path(__file__).parents[1] / "minipeft"
VOCAB = tokenizer().vocab_size
ON_TEXT = [kind() for name, kind in METHODS.items() if name != "linear_probe"]


@pytest.fixture
def device():
    with fakecupy.device() as xp:
        yield xp


def there(model):
    model.to("cuda")
    return model


# -- transfers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Rows(VOCAB), Sounds()], ids=["rows", "task"])
@pytest.mark.parametrize("method", ON_TEXT, ids=lambda m: m.name)
def test_a_step_uploads_its_batch_once_and_reads_the_loss(device, method, task):
    model = there(gpt(dropout=0.1))
    if method.name == "lora":
        method = dataclasses.replace(method, dropout=0.1)
    attach(model, method)
    if method.name in ("quant", "steering"):  # which train nothing
        attach(model, LoRA(r=2))
    transfers.clear()
    history = fit(model, task, steps=12, lr=0.01, batch=3, quiet=True)
    assert len(history.loss) == 12
    assert len(transfers.up) == 12 and max(transfers.up) < 2000
    reads = (
        3 if method.name in ("prompt", "ptuning", "infix") else 1
    )  # how many virtual tokens rows have, least and most
    assert transfers.down == [8] * 12 * reads  # and the loss, a float64


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_stay_on_the_device(device, optimizer):
    model = there(gpt())
    attach(model, METHODS["full"]())
    transfers.clear()
    fit(model, Rows(VOCAB), steps=3, lr=0.01, batch=2, optimizer=optimizer, quiet=True)
    assert len(transfers.up) == len(transfers.down) == 3


def test_a_run_is_the_same_run_as_on_the_host(device):
    """Dropout is drawn otherwise there; all else agrees."""
    runs = []
    for move in (lambda model: model, there):
        model = move(gpt())
        with attach(model, LoRA(r=2)) as at:
            loss = fit(model, Rows(VOCAB), steps=5, lr=0.02, batch=3, quiet=True).loss
            runs.append((loss, [to_numpy(p.data) for _, p in at.trainable()]))
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-10)
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_texts_scores_and_evaluations_are_those_of_the_host(device):
    host, model = gpt(), there(gpt())
    settings = {"max_tokens": 6, "temperature": 0.8, "seed": 3}
    assert generate(model, "the cat", **settings) == generate(host, "the cat", **settings)
    pairs = "the cow", [" moos", " barks loud"]
    np.testing.assert_allclose(score(model, *pairs), score(host, *pairs), rtol=1e-9)
    for kind in ("classification", "generation"):
        assert evaluate(model, Sounds(kind)) == pytest.approx(evaluate(host, Sounds(kind)))


def test_pairs_are_judged_as_on_the_host(device):
    losses = []
    for model in (encoder(pool="mean"), there(encoder(pool="mean"))):
        losses.append(mean_loss(model, TaskBatches.of(model, PAIRS), 4))
        list(outputs(model, [TaskBatches.of(model, PAIRS).collate([0, 1])], "head"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_adapters_travel_between_host_and_device(device, tmp_path):
    from minipeft.methods import load_adapter

    model = there(gpt())
    at = attach(model, LoRA(r=2))
    fit(model, Rows(VOCAB), steps=2, lr=0.05, batch=2, quiet=True)
    at.save(tmp_path / "a.safetensors")
    ids = Rows(VOCAB).batch(9, 2, 0).ids
    host = gpt()
    load_adapter(host, tmp_path / "a.safetensors")
    with no_grad():
        y = to_numpy(model(device.asarray(ids)).data)
        np.testing.assert_allclose(host(ids).data, y, rtol=1e-9, atol=1e-12)


class Images:
    """Random images of two classes."""

    def batch(self, step, size, seed):
        rng = Rng(seed, "images", step)
        mask = np.ones((size, 5), bool)
        return Batch(rng.normal((size, 1, 8, 8)), rng.integers(0, 2, (size,)), mask)


def bert():
    config = BERTConfig(vocab=VOCAB, context=24, width=16, layers=2, heads=2, head="mlm")
    return BERT(config, dtype=np.float64), Rows(VOCAB)


def vit():
    config = ViTConfig(image=8, patch=4, channels=1, width=16, layers=2, heads=2, mlp=32, classes=2)
    return ViT(config, dtype=np.float64), Images()


def pairs():
    return encoder(pool="mean"), TaskBatches.of(encoder(), PAIRS)


@pytest.mark.parametrize("make", [bert, vit, pairs])
def test_other_models_step_with_one_upload(device, make):
    model, task = make()
    there(model)
    attach(model, LoRA(r=2))
    transfers.clear()
    loss = fit(model, task, steps=3, lr=0.01, batch=2, quiet=True).loss
    assert len(transfers.up) == len(transfers.down) == 3 and np.isfinite(loss).all()


def test_upload_keeps_values_shapes_and_kinds(device):
    given = (np.arange(6).reshape(2, 3), None, (np.array([1, 2]), np.array([3])),
             np.array([True, False, True]), np.float32([[0.5]]), np.arange(8)[::2])  # fmt: skip
    made = upload(device, *given)
    assert len(transfers.up) == 1
    for a, b in zip(given, made, strict=True):
        for x, y in zip(*(v if isinstance(v, tuple) else (v,) for v in (a, b)), strict=True):
            if x is None:
                assert y is None
            else:
                assert xp_of(y) is device and y.dtype == x.dtype and (y.get() == x).all()
    assert upload(np, *given)[0] is given[0]


# -- the stand-in itself --------------------------------------------------------------------------


def test_the_stand_in_refuses_what_cupy_refuses(device):
    x, host = device.asarray(np.ones((2, 3))), np.ones((2, 3))
    for wrong in (lambda: np.asarray(x), lambda: x + host, lambda: host + x,
                  lambda: device.exp(host), lambda: device.exp([1.0]),
                  lambda: x[np.array([0])], lambda: x[[0]],
                  lambda: device.sum(x, where=True), lambda: device.exp(x, where=True),
                  lambda: x.sum(initial=0), lambda: device.concatenate([x, host]),
                  lambda: np.exp(x)):  # fmt: skip
        with pytest.raises(TypeError):
            wrong()
    for missing in (lambda: device.errstate, lambda: device.insert, lambda: x.scatter):
        with pytest.raises(AttributeError):
            missing()
    assert type(x.sum()) is fakecupy.ndarray  # no scalar
    assert float(x[device.asarray(np.array([5])), 0].sum()) == 1.0  # out of range goes round


# -- names ----------------------------------------------------------------------------------------


def calls():
    """(file and line, name, keywords) of every use of an array library in the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call = node.func if isinstance(node, ast.Call) else node
            keywords = [k.arg for k in node.keywords] if isinstance(node, ast.Call) else []
            if isinstance(call, ast.Attribute) and (name := dotted(call)):
                yield f"{file.name}:{node.lineno}", name, keywords


def dotted(node):
    """ "linalg.norm" of xp.linalg.norm or xp_of(x).linalg.norm; None of anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    is_xp = isinstance(node, ast.Name) and node.id == "xp"
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return ".".join(reversed(names)) if is_xp or (is_call and node.func.id == "xp_of") else None


KINDS = {"float32", "uint32", "ndarray", "linalg", "__version__"}  # beside functions
OWN = ("cuda",)  # CuPy's alone: no table of NumPy's names holds it


def test_cupy_has_every_name_and_keyword_that_the_package_uses():
    found = list(calls())
    assert len(found) > 100
    for where, name, keywords in found:
        if name in KINDS or name.split(".")[0] in OWN:
            continue
        name = name.removesuffix(".at")
        assert name in table(), f"{where}: CuPy has no {name}"
        fakecupy._check_keywords(name, dict.fromkeys(keywords))


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="cupy: it is not installed")
def test_the_table_is_that_of_the_installed_cupy():
    there = FILE.read_text(encoding="utf-8").splitlines()[1:]
    assert there == list(lines()), "python -m tests.cupy_names prints it anew"
