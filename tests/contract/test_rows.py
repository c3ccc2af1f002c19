"""Rows of one batch carry different adapters."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import Method, Wrapper, attach
from minipeft.engine import no_grad, running
from minipeft.generation.sampling import generate_many
from minipeft.methods import IA3, Adapter, BitFit, LoRA, Parallel, Quantize, load_adapter
from minipeft.nn import Parameter, init
from minipeft.storage.checkpoint import CheckpointError
from minipeft.training.step import Workers, loss_of
from tests.contract.throwaway import FacT, Produced, Steering
from tests.methods.contract import Case, randomize
from tests.tiny import Rows, gpt, tokenizer

VOCAB = tokenizer().vocab_size


def two():
    """A model with two adapters on the same parts and one on others, all of them moved."""
    model = gpt()
    handles = [attach(model, LoRA(r=2, seed=1)), attach(model, LoRA(r=3, seed=2)),
               attach(model, LoRA(r=2, targets="fc_in", seed=3))]  # fmt: skip
    for handle in handles:
        for path, p in handle.trainable():
            p.data = p.data + 0.2 * Rng(handle.method.seed, path).normal(p.shape)
    return model, handles


def test_each_row_is_as_if_alone():
    model, (a, b, c) = two()
    ids = Rows(VOCAB).batch(0, 5, 0).ids
    rows = [b, None, a, c, b]
    with no_grad(), running(rows=rows):
        mixed = model(ids).data
    for i, mine in enumerate(rows):
        with no_grad(), running(off=[h for h in (a, b, c) if h is not mine]):
            alone = model(ids[i : i + 1]).data[0]
        np.testing.assert_allclose(mixed[i], alone, rtol=0, atol=1e-10 * np.abs(alone).max())
        with no_grad(), running(off=(a, b, c)):
            base = model(ids[i : i + 1]).data[0]
        assert (mine is None) == np.allclose(mixed[i], base, atol=1e-9)


def test_gradients_go_to_the_adapters_of_the_rows():
    model, (a, b, c) = two()
    for handle in (a, b, c):
        for p in handle.trained.values():
            p.requires_grad = True
    with running(rows=[b, b, b]):
        loss_of(model, Rows(VOCAB).batch(0, 3, 0)).backward()
    assert all(p.grad is None for p in (*a.trained.values(), *c.trained.values()))
    assert all(np.abs(p.grad).max() > 0 for p in b.trained.values())


@pytest.mark.parametrize("settings", [{"rows": "bacb"}, {"off": "ac"}, {"rows": "b-ab"}])
def test_threads_take_the_rows_and_what_is_off(settings):
    """Each part of the batch carries the adapters of its own rows."""
    model, handles = two()
    called = dict(zip("abc-", [*handles, None], strict=True))
    params = [(f"{i}.{path}", p) for i, h in enumerate(handles) for path, p in h.trained.items()]
    for _, p in params:
        p.requires_grad = True
    data = Rows(VOCAB).batch(0, 4, 0)
    found = []
    for threads in (1, 2, 3):
        with (
            running(**{name: [called[c] for c in value] for name, value in settings.items()}),
            Workers(model, params, threads, False, False, loss_of) as workers,
        ):
            loss = workers.gradients(data, Rng(0))
        found.append((loss, {path: p.grad for path, p in params}))
        for _, p in params:
            p.grad = None
    (loss, alone), *others = found
    for other, parts in others:
        assert other == pytest.approx(loss, rel=1e-12)
        for path, g in alone.items():
            if g is None:
                assert parts[path] is None, path
            else:
                np.testing.assert_allclose(parts[path], g, rtol=1e-9, atol=1e-13, err_msg=path)
    with (
        running(rows=[None] * 5),
        Workers(model, params, 2, False, False, loss_of) as workers,
        pytest.raises(ValueError, match="names 5 rows, the batch has 4"),
    ):
        workers.gradients(data, Rng(0))


def test_texts_are_generated_by_the_adapter_of_their_row():
    model, (a, b, c) = two()
    prompts = ["the cat", "a dog sleeps", "the cow", "the"]
    rows = [a, None, b, a]
    mixed = generate_many(model, prompts, max_tokens=5, rows=rows)
    for prompt, mine, text in zip(prompts, rows, mixed, strict=True):
        with running(off=[h for h in (a, b, c) if h is not mine]):
            assert generate_many(model, [prompt], max_tokens=5) == [text]


def test_wrong_rows_are_refused():
    model, (a, b, _) = two()
    ids = Rows(VOCAB).batch(0, 3, 0).ids
    with running(rows=[a, b]), pytest.raises(ValueError, match="names 2 rows, the batch has 3"):
        model(ids)
    other = attach(gpt(), LoRA(r=2))
    with running(rows=[a, b, other]), pytest.raises(ValueError, match="not attached to this model"):
        model(ids)
    with pytest.raises(ValueError, match="rows names 1 adapters, there are 2 prompts"):
        generate_many(model, ["the cat", "the dog"], rows=[a])


def test_what_all_rows_share_may_be_off():
    model, (a, b, c) = two()
    shared = attach(model, BitFit())
    for path, p in shared.trainable():
        p.data = p.data + Rng(0, path).normal(p.shape)
    ids = Rows(VOCAB).batch(0, 2, 0).ids
    with no_grad(), running(rows=[a, None], off=[shared]):
        mixed = model(ids).data
    with no_grad(), running(rows=[a, "b"], off=[shared]), pytest.raises(ValueError, match="names"):
        model(ids)
    shared.detach()
    with no_grad(), running(rows=[a, None]):
        assert np.array_equal(model(ids).data, mixed)


def test_what_all_rows_share_cannot_be_mixed():
    model = gpt()
    at = attach(model, BitFit())
    with running(rows=[at, None]), pytest.raises(ValueError, match="'bitfit' changes parameters"):
        model(Rows(VOCAB).batch(0, 2, 0).ids)


@dataclass(frozen=True)
class Gate(Method):
    """A part of any kind, its output times 1 + g."""

    name: ClassVar[str] = "gate"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True

    targets: str | tuple[str, ...] = "attn"

    def wrap(self, path, module, where):
        return Gated(module, Parameter(init.zeros((1,), np.zeros(1))))


class Gated(Wrapper):
    """y = base(…) (1 + g), whatever the part takes."""

    def __init__(self, base, g):
        super().__init__(base)
        self.g = g

    def forward(self, *args, **kwargs):
        y = self.base(*args, **kwargs)
        return y if isinstance(y, tuple) else y * (self.g + 1.0)  # a start gives ids, mask, past


@pytest.mark.parametrize("targets", ["attn", "emb", "emb.tok", "re:blocks\\.\\d", "start"])
def test_a_wrapper_of_anything_is_carried_by_some_rows(targets):
    """With its mask, its past and its cache cut and put together again."""
    model = gpt()
    handle = attach(model, Gate(targets))
    for _, p in handle.trainable():
        p.data = p.data + 0.3
    batch = Rows(VOCAB).batch(0, 4, 0)
    ids, mask = batch.ids, np.ones(batch.ids.shape, bool)
    mask[1, -2:] = mask[3, -1:] = False
    rows = [handle, None, None, handle]
    with no_grad(), running(rows=rows):
        mixed, past = model(ids[:, :-1], mask=mask[:, :-1], return_past=True)
        later = model(ids[:, -1:], past=past, mask=mask)
    for i, mine in enumerate(rows):
        with no_grad(), running(off=[] if mine else [handle]):
            y, own = model(ids[i : i + 1, :-1], mask=mask[i : i + 1, :-1], return_past=True)
            after = model(ids[i : i + 1, -1:], past=own, mask=mask[i : i + 1])
        n = int(mask[i, :-1].sum())
        np.testing.assert_allclose(mixed.data[i, :n], y.data[0, :n], rtol=0, atol=1e-10)
        if mask[i, -1]:
            np.testing.assert_allclose(later.data[i], after.data[0], rtol=0, atol=1e-10)
        for pair, pair1 in zip(past, own, strict=True):
            for k, k1 in zip(pair, pair1, strict=True):
                np.testing.assert_allclose(k.data[i, :n], k1.data[0, :n], rtol=0, atol=1e-10)


def test_texts_are_continued_by_a_wrapped_attention_in_some_rows():
    model = gpt()
    model.tokenizer = tokenizer()
    handle = attach(model, Gate())
    for _, p in handle.trainable():
        p.data = p.data + 0.5
    prompts = ["The cat says", "The dog says", "The cow says"]
    rows = [handle, None, handle]
    mixed = generate_many(model, prompts, rows=rows, max_tokens=5)
    for prompt, mine, text in zip(prompts, rows, mixed, strict=True):
        with running(off=[] if mine else [handle]):
            assert generate_many(model, [prompt], max_tokens=5) == [text]


@pytest.mark.parametrize("kind", ["gpt", "bert", "vit"])
def test_methods_of_every_kind_share_a_batch(kind):
    """A low rank, scales, shifts and bottlenecks in the same blocks: each row is as if alone."""
    case = Case(None, kind=kind)
    model, x = case.model(), case.inputs(rows=9)
    model.head.new = False  # a ViT's, which the rows share
    methods = (LoRA(r=2), IA3(), Adapter(r=2), Parallel(r=2), FacT(), Steering(), Produced())
    handles = [attach(model, method) for method in methods]
    for handle in handles:
        randomize(handle)
    rows = [handles[2], None, handles[0], handles[1], handles[2], *handles[3:]]
    with no_grad(), running(rows=rows):
        mixed = model(x).data
    for i, mine in enumerate(rows):
        with no_grad():
            with running(off=[h for h in handles if h is not mine]):
                alone = model(x[i : i + 1]).data[0]
            with running(off=handles):
                base = model(x[i : i + 1]).data[0]
        np.testing.assert_allclose(mixed[i], alone, rtol=0, atol=1e-10 * np.abs(alone).max())
        assert (mine is None) == (np.abs(mixed[i] - base).max() < 1e-6)


def test_adapters_that_were_trained_apart_share_a_batch(tmp_path):
    """Each was saved over the base alone; `beside` loads them together, and only what rows share
    is compared."""
    for i, method in enumerate((LoRA(r=2), LoRA(r=3, targets="fc_in"))):
        model = gpt()
        handle = attach(model, method)
        for path, p in handle.trainable():
            p.data = p.data + 0.2 * Rng(i, path).normal(p.shape)
        handle.save(tmp_path / f"{i}")
    ids = Rows(VOCAB).batch(0, 3, 0).ids
    wanted = []
    for i in range(2):
        model = gpt()
        load_adapter(model, tmp_path / f"{i}")
        wanted.append(model(ids).data)
    model = gpt()
    a = load_adapter(model, tmp_path / "0")
    with pytest.raises(CheckpointError, match=r"methods \[\], here they are \['lora'\]"):
        load_adapter(model, tmp_path / "1")
    b = load_adapter(model, tmp_path / "1", beside=True)
    with no_grad(), running(rows=[a, b, None]):
        mixed = model(ids).data
    for row, alone in ((0, wanted[0]), (1, wanted[1]), (2, gpt()(ids).data)):
        np.testing.assert_allclose(mixed[row], alone[row], rtol=0, atol=1e-10)
    other = gpt()
    attach(other, Quantize())
    with pytest.raises(CheckpointError, match="trained over the methods"):
        load_adapter(other, tmp_path / "1", beside=True)  # all rows are quantized
