"""Adapters: where they stand, how they start, and which blocks go without."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, running
from minipeft.ledger.papers import shapes
from minipeft.methods import Adapter, Parallel, Prefix
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.training.loop import fit
from tests.methods.contract import CASES, Case, randomize, run, same

IDS = CASES["lora"].inputs()
EVERY = {
    "houlsby": Adapter(r=3),
    "pfeiffer": Adapter(r=3, place="pfeiffer"),
    "lin": Adapter(r=3, place="lin"),
    "parallel": Parallel(r=3),
    "reads ln": Parallel(r=3, reads="ln"),
    "attn": Parallel(r=3, sublayer="attn"),
}


def attached(kind="gpt", **settings):
    return Case(Adapter(**{"r": 3, **settings}), kind=kind).attached()


# -- where they stand ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "place", "parts"),
    [
        ("gpt", "houlsby", ["attn", "mlp"]),
        ("bert", "houlsby", ["attn", "mlp"]),
        ("gpt", "pfeiffer", [""]),
        ("vit", "pfeiffer", [""]),
        ("bert", "pfeiffer", ["ln_2"]),
        ("gpt", "lin", [""]),
        ("bert", "lin", [""]),
        ("llama", "houlsby", ["attn", "mlp"]),
        ("llama", "pfeiffer", [""]),
    ],
)
def test_places(kind, place, parts):
    _, handle = attached(kind, place=place)
    wanted = [f"blocks.{i}.{part}".rstrip(".") for i in range(2) for part in parts]
    assert list(handle.wrappers) == wanted


def test_the_activation_is_that_of_the_paper_unless_one_is_named():
    x = Tensor(Rng(0).normal((2, 3, 8)))
    outs = {}
    for place, act in [("houlsby", None), ("houlsby", "gelu"), ("lin", None), ("lin", "relu")]:
        _, handle = attached(place=place, act=act)
        w = next(iter(handle.wrappers.values()))
        outs[place, act] = w.adapter.act(x).data
    assert same(outs["houlsby", None], outs["houlsby", "gelu"])
    assert same(outs["lin", None], outs["lin", "relu"])
    assert not same(outs["lin", None], outs["houlsby", None])


def test_norms_train_beside_and_no_others():
    model, handle = attached(norms=True)
    own = [path for path, _ in handle.trainable() if ".adapter." not in path]
    names = {"ln_1", "ln_2", "ln_f"}
    wanted = [
        path for path, _ in Case(None).model().named_parameters() if names & {*path.split(".")}
    ]
    assert own == wanted and len(own) == 10


def test_rows_that_share_trained_norms_are_refused():
    model, handle = attached(norms=True)
    with pytest.raises(ValueError, match="'adapter' changes parameters that all rows"):
        with running(rows=[handle, None]):
            model(IDS)


# -- the equations -------------------------------------------------------------------------------


def A(w, x, act):
    """W_up act(W_down x + b_down) + b_up, of a norm's output if there is one."""
    a = w.adapter
    if a.ln is not None:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = x * a.ln.weight.data + a.ln.bias.data
    z = x @ a.down.weight.data.T + a.down.bias.data
    gelu = z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    z = gelu if act == "gelu" else np.maximum(z, 0)
    return z @ a.up.weight.data.T + a.up.bias.data


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_a_block_is_its_equations(kind, name):
    """h enters a sublayer, f comes out of it; pre-norm h + f, post-norm ln(h + f)."""
    case = Case(EVERY[name], kind=kind)
    model, handle = case.attached()
    block, w, post = model.blocks[0], handle.wrappers, kind == "bert"
    x = Rng(0).normal((2, 5, case.model().config.width))

    def part(name, x):
        with running(off=[handle]):
            return run(getattr(block, name), Tensor(x))

    def sublayer(h, leaf, norm):
        read = h if post else part(norm, h)
        f = part(leaf, read)
        if isinstance(case.method, Parallel):
            here, before = w.get(f"blocks.0.{leaf}"), w.get(f"blocks.0.{norm}")
            if before is not None:
                assert not post
                f = f + 4 * A(before, h, "relu")
            elif here is not None:
                f = f + 4 * A(here, read, "relu")
        elif name == "houlsby":
            f = f + A(w[f"blocks.0.{leaf}"], f, "gelu")
        return h + f

    y = sublayer(x, "attn", "ln_1")
    y = sublayer(part("ln_1", y) if post else y, "mlp", "ln_2")
    if post:
        z = part("ln_2", y)
        y = part("ln_2", y + A(w["blocks.0.ln_2"], z, "relu")) if name == "pfeiffer" else z
    if "blocks.0" in w:
        y = y + A(w["blocks.0"], y, "relu")
    np.testing.assert_allclose(run(block, Tensor(x)), y, rtol=0, atol=1e-12 * abs(y).max())


# -- the start -----------------------------------------------------------------------------------


def drawn(place="houlsby", **settings):
    model = GPT(preset("gpt-0.2m"))
    w = attach(model, Adapter(r=64, place=place, **settings)).wrappers
    first = next(iter(w.values())).adapter
    return model.config.width, first.down.weight.data, first.up.weight.data, first


def test_zero_is_the_identity_and_learns():
    d, down, up, adapter = drawn()
    assert not up.any() and not adapter.down.bias.data.any() and not adapter.up.bias.data.any()
    assert abs(down).max() <= d**-0.5 and down.std() == pytest.approx((3 * d) ** -0.5, rel=0.05)


def test_houlsby_s_start_is_a_truncated_normal():
    d, down, up, _ = drawn(init="houlsby")
    for w in (down, up):
        assert abs(w).max() <= 2e-3 and abs(w).max() > 1.9e-3
        assert w.std() == pytest.approx(0.8796e-3, rel=0.03)  # of N(0, 1e-6) cut at 2
        assert abs(w.mean()) < 5e-5 and (w != 0).all()
    assert not same(down, up.T)


def test_the_normal_start():
    _, down, up, adapter = drawn("lin", init="normal")
    assert down.std() == pytest.approx(0.02, rel=0.05) == up.std()
    assert (adapter.ln.weight.data == 1).all() and not adapter.ln.bias.data.any()


@pytest.mark.parametrize("place", ["houlsby", "pfeiffer", "lin"])
def test_other_starts_are_near_the_identity(place):
    case = Case(Adapter(r=3, place=place, init="houlsby"))
    model = case.model()
    base = run(model, IDS)
    handle = attach(model, case.method)
    change = abs(run(model, IDS) - base).max() / abs(base).max()
    assert 0 < change < 1e-3 and handle.method.identity and not Adapter().identity


# -- removal -------------------------------------------------------------------------------------


def test_dropped_blocks_have_none():
    _, handle = attached(drop=1)
    assert [path.split(".")[1] for path in handle.wrappers] == ["1", "1"]
    with pytest.raises(ValueError, match="changes nothing in this model"):
        attached(drop=2)
    with pytest.raises(ValueError, match="drop_most = 2 leaves passes .* at most 1 of 2 blocks"):
        attached(drop_most=2)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["gpt", "bert", "vit", "llama"])
def test_removal_by_layer(kind, name):
    """Off in a block after training, by all of its wrappers, is as if it had never been there."""
    case = Case(EVERY[name], kind=kind)
    model = case.model()
    model.head.new = False  # a ViT's would train
    handle = attach(model, case.method)
    randomize(handle)
    x, wrappers = case.inputs(), list(handle.wrappers.values())
    y = run(model, x)
    for layer in range(2):
        with running(off=[w for w in wrappers if w.layer == layer]):
            without = run(model, x)
        with running(off=[w for w in wrappers if w.layer != layer]):
            alone = run(model, x)
        assert not same(without, y) and not same(alone, without)
        kept = {path: p.data for path, p in handle.trainable() if f"blocks.{layer}." in path}
        for path, p in handle.trainable():
            p.data = 0 * p.data if path in kept and "up" in path.split(".") else p.data
        np.testing.assert_allclose(run(model, x), without, rtol=0, atol=1e-12 * abs(y).max())
        for path, p in handle.trainable():
            p.data = kept.get(path, p.data)
    with running(off=wrappers):
        assert same(run(model, x), run(case.model(), x))
    for i, w in enumerate(wrappers):  # one alone may go, too
        with running(off=[w]):
            assert not same(run(model, x), y), i


@pytest.mark.parametrize("place", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("kind", ["gpt", "bert"])
@pytest.mark.parametrize("settings", [{}, {"recompute": True}], ids=str)
def test_the_first_blocks_go_without_as_many_as_the_pass_draws(settings, kind, place):
    """One n for all wrappers of a pass, another in other passes; none where nothing is drawn."""
    case = Case(Adapter(r=3, place=place, drop_most=2), kind=kind)
    model = case.model(layers=3)
    handle = attach(model, case.method)
    randomize(handle)
    ids = case.inputs()
    wrappers = list(handle.wrappers.values())
    by_n = []
    for n in range(3):
        with running(off=[w for w in wrappers if w.layer < n]):
            by_n.append(run(model, ids))
    assert same(run(model, ids), by_n[0])
    seen, rng = [], Rng(0)
    for _ in range(12):
        with running(rng=rng, **settings):
            y = model(ids)
        (n,) = [n for n, wanted in enumerate(by_n) if same(y.data, wanted)]
        seen.append(n)
        y.sum().backward()
        reached = [w.adapter.up.weight.grad is not None for w in wrappers]
        assert reached == [w.layer >= n for w in wrappers]
        for _, p in handle.trainable():
            p.grad = None
    assert set(seen) == {0, 1, 2}


def test_drop_and_drop_most_act_together():
    model, handle = attached(place="pfeiffer", drop=1, drop_most=1)
    y = run(model, IDS)
    for i in range(8):
        with running(rng=Rng(i)):
            assert same(run(model, IDS), y)  # block 0 has none, drawn or not


def test_only_a_method_that_draws_may_skip():
    assert Adapter(drop_most=1).skips and not Adapter(drop=1).skips and not Adapter().skips


# -- several -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["gpt", "bert", "vit", "llama"])
def test_two_stand_side_by_side_and_rows_take_their_own(kind, name):
    case = Case(EVERY[name], kind=kind)
    model = case.model()
    model.head.new = False  # a ViT's, which the rows share
    first, second = attach(model, case.method), attach(model, case.other())
    randomize(first, 1)
    randomize(second, 2)
    x, rows = case.inputs(rows=4), [first, second, None, first]
    with running(rows=rows):
        mixed = run(model, x)
    for i, mine in enumerate(rows):
        with running(off=[h for h in (first, second) if h is not mine]):
            alone = run(model, x[i : i + 1])[0]
        np.testing.assert_allclose(mixed[i], alone, rtol=0, atol=1e-10 * abs(alone).max())
    both = run(model, x)
    assert not any(same(both[i], mixed[i]) for i in range(4))


# -- parallel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sublayer", ["mlp", "attn"])
@pytest.mark.parametrize(
    ("kind", "which", "names"),
    [
        ("gpt", "residual", "ln sublayer"),
        ("vit", "residual", "ln sublayer"),
        ("gpt", "ln", "sublayer"),
        ("bert", "residual", "sublayer"),
        ("bert", "ln", "sublayer"),
        ("llama", "residual", "ln sublayer"),
    ],
)
def test_the_stream_is_read_before_the_norm_of_a_pre_norm_block(kind, which, names, sublayer):
    _, handle = Case(Parallel(reads=which, sublayer=sublayer), kind=kind).attached()
    norm = {"mlp": "ln_2", "attn": "ln_1"}[sublayer]
    wanted = names.replace("ln", norm).replace("sublayer", sublayer).split()
    assert [path.split(".")[2] for path in handle.wrappers] == wanted * 2


def test_s_scales_what_is_added():
    model = Case(None).model()
    base = run(model.blocks[0].mlp, Tensor(Rng(0).normal((1, 2, 8))))
    added = {}
    for s in (1.0, 4.0):
        with attach(model, Parallel(r=3, s=s, reads="ln")) as handle:
            randomize(handle)
            added[s] = run(model.blocks[0].mlp, Tensor(Rng(0).normal((1, 2, 8)))) - base
    np.testing.assert_allclose(added[4.0], 4 * added[1.0], rtol=1e-12)
    assert abs(added[1.0]).max() > 0.01


@pytest.mark.parametrize("reads", ["residual", "ln"])
def test_two_parallel_adapters_add_up(reads):
    """Each reads the same and none reads the other: a block's output is base + s A1 + s A2."""
    model = Case(None).model(layers=1)
    x = Tensor(Rng(0).normal((2, 3, 8)))
    parts = []
    for off in ([0], [1], [0, 1], []):
        handles = [attach(model, Parallel(r=3, reads=reads, seed=seed)) for seed in (0, 1)]
        for i, handle in enumerate(handles):
            randomize(handle, i)
        with running(off=[handles[i] for i in off]):
            parts.append(run(model.blocks[0], x))
        for handle in reversed(handles):
            handle.detach()
    second, first, base, both = parts
    np.testing.assert_allclose(both - base, (first - base) + (second - base), rtol=0, atol=1e-12)


def test_mix_and_match_is_two_methods_that_train_together():
    """He et al. 2022, sec. 4.6: a prefix in attention, a scaled adapter beside the MLP."""
    base = shapes("bert-base")
    with attach(base, Prefix(n=30, mlp=800)) as prefix:
        with attach(base, Parallel(r=384), freeze=False) as parallel:
            assert prefix.count() == 15_402_272 and parallel.count() == 7_091_712
            assert prefix.count() + parallel.count() == 22_493_984  # as the library of adapters has
    case = Case(None)
    model = case.model(np.float32, context=10)
    handles = [attach(model, Prefix(n=2)), attach(model, Parallel(r=3), freeze=False)]
    fit(model, case.batches(), steps=3, lr=0.01, batch=4, quiet=True)
    assert not any(handle.report().never_moved for handle in handles)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Adapter(r=0), "Adapter: r must be a whole number >= 1"),
        (lambda: Adapter(place="pfeifer"), "Adapter: place must be .*did you mean 'pfeiffer'"),
        (lambda: Adapter(act="tanh"), "Adapter: act must be 'gelu', 'relu' or 'swish'"),
        (lambda: Adapter(init="one"), "Adapter: init must be"),
        (lambda: Adapter(drop=-1), "Adapter: drop must be a whole number >= 0"),
        (lambda: Parallel(s=float("nan")), "Parallel: s must be a finite number"),
        (lambda: Parallel(sublayer="ln_1"), "Parallel: sublayer must be 'mlp' or 'attn'"),
        (lambda: Parallel(reads="norm"), "Parallel: reads must be 'residual' or 'ln'"),
    ],
)
def test_wrong_settings(made, message):
    with pytest.raises(ValueError, match=message):
        made()
