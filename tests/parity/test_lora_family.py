"""DoRA, VeRA, PiSSA and AdaLoRA against PEFT's on the same GPT-2."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused
from minipeft.methods import AdaLoRA, DoRA, LoftQ, PiSSA, VeRA, adalora
from minipeft.models import GPT, GPTConfig
from tests.golden import ours, parts

SIZES = GPTConfig(vocab=61, context=24, width=24, layers=3, heads=3, mlp=40)
TOKENS = Rng(0).integers(0, 61, (3, 10))
QKV = ("q_proj", "k_proj", "v_proj")
FUSED = {"targets": QKV, "fused": QKV}
MLP = ["c_fc", "mlp.c_proj"]
NAMES = {  # of PEFT's arrays -> ours
    "lora_A": "A", "lora_B": "B", "lora_magnitude_vector": "m", "vera_lambda_b": "b",
    "vera_lambda_d": "d",
}  # fmt: skip
SVD = {"lora_A": "Q", "lora_B": "P", "lora_E": "Lambda"}


def cases(peft):
    """PEFT's config, our method, and the names of the trained arrays."""
    lora = {"r": 4, "lora_alpha": 8, "fan_in_fan_out": True}
    ada = {"init_r": 4, "target_r": 2, "lora_alpha": 8, "tinit": 2, "tfinal": 6, "deltaT": 2,
           "total_step": 20, "fan_in_fan_out": True}  # fmt: skip
    svd = {"r": 4, "target": 2, "alpha": 8.0, "t_i": 0.1, "t_f": 0.3, "delta_t": 2}
    mlp = {"targets": ("fc_in", "fc_out")}
    return {
        "dora": (
            peft.LoraConfig(target_modules=["c_attn"], use_dora=True, **lora),
            DoRA(r=4, alpha=8.0, **FUSED),
            NAMES,
        ),
        "dora, all": (
            peft.LoraConfig(target_modules="all-linear", use_dora=True, use_rslora=True, **lora),
            DoRA(r=4, alpha=8.0, targets="all-linear", fused=QKV, rslora=True),
            NAMES,
        ),
        "vera": (
            peft.VeraConfig(r=5, target_modules=["c_attn"], fan_in_fan_out=True),
            VeRA(r=5, **FUSED),
            NAMES,
        ),
        "vera, two widths": (
            peft.VeraConfig(r=5, target_modules=MLP, fan_in_fan_out=True),
            VeRA(r=5, **mlp),
            NAMES,
        ),
        "adalora": (
            peft.AdaLoraConfig(target_modules=["c_attn"], **ada),
            AdaLoRA(**svd, **FUSED),
            SVD,
        ),
        "adalora, mlp": (
            peft.AdaLoraConfig(target_modules=MLP, **ada),
            AdaLoRA(**svd, **mlp),
            SVD,
        ),
    }


def both(case, peft, make_gpt2):
    """PEFT's model and ours, and our handle, on one base."""
    config, method, names = cases(peft)[case]
    base = make_gpt2(SIZES)
    state = {n: p.numpy(force=True) for n, p in base.named_parameters() if n != "lm_head.weight"}
    model = GPT(SIZES, dtype=np.float64)
    model.load_state_dict(ours(state))
    theirs = peft.get_peft_model(base, config, autocast_adapter_dtype=False).double().eval()
    return theirs, model, attach(model, method), names


ALL = ["dora", "dora, all", "vera", "vera, two widths", "adalora", "adalora, mlp"]


@pytest.fixture(params=ALL)
def pair(request, torch, peft, make_gpt2):
    """The two models with the same random arrays."""
    theirs, model, handle, names = both(request.param, peft, make_gpt2)
    with torch.no_grad():
        for i, (name, p) in enumerate(trained(theirs)):
            one = 1.0 if "magnitude" in name else 0.0
            p.copy_(torch.from_numpy(one + 0.3 * Rng(5, i).normal(tuple(p.shape))))
    put(handle, translated(theirs, names))
    if handle.method.name == "vera":
        A, B = (m["default"].numpy(force=True) for m in (theirs.vera_A, theirs.vera_B))
        for path, w in handle.wrappers.items():
            n, m = w.A.shape[1], w.B.shape[0]
            first = QKV.index(path.rpartition(".")[2]) * m if handle.method.fused else 0
            w.A.data, w.B.data = A[:, :n].astype(float), B[first : first + m].astype(float)
    return theirs, model, handle, names


def trained(theirs):
    """(name, Parameter); AdaLoRA's ranknum asks for a gradient too, but is a constant."""
    named = theirs.named_parameters()
    return [(n, p) for n, p in named if p.requires_grad and ".ranknum." not in n]


def translated(theirs, names, kind="data"):
    """path of ours -> the trained arrays of PEFT's model, or their gradients."""
    found = {}
    for name, p in trained(theirs):
        module, _, rest = name.removeprefix("base_model.model.").partition(".default")
        module, _, rest = module.rpartition(".")
        paths, array = parts(module), getattr(p, kind).numpy(force=True)
        own = names[rest]
        if own in ("B", "P", "b", "m"):
            for path, rows in zip(paths, np.split(array, len(paths)), strict=True):
                found[f"{path}.{own}"] = rows
        else:
            found[f"{paths[0]}.{own}"] = array.reshape(-1) if own == "Lambda" else array
    return found


def put(handle, values):
    values = dict(values)
    for path, p in handle.trainable():
        p.data = values.pop(path).copy()
    assert not values


def logits(torch, model):
    return model(torch.from_numpy(TOKENS)).logits


def close(a, b, tolerance=1e-10):
    assert np.abs(a - b).max() < tolerance * np.abs(b).max()


def test_logits_and_counts(torch, pair):
    theirs, mine, handle, _ = pair
    close(mine(TOKENS).data, logits(torch, theirs).numpy(force=True))
    assert handle.count() == sum(p.numel() for _, p in trained(theirs))


def test_gradients(torch, pair):
    theirs, mine, handle, names = pair
    z = logits(torch, theirs)[:, :-1].reshape(-1, 61)
    torch.nn.functional.cross_entropy(z, torch.from_numpy(TOKENS[:, 1:].ravel())).backward()
    fused.cross_entropy(mine(TOKENS)[:, :-1], TOKENS[:, 1:]).backward()
    wanted = translated(theirs, names, "grad")
    for path, p in handle.trainable():
        assert np.abs(p.grad - wanted.pop(path)).max() < 1e-10, path
    assert not wanted


def test_merged_weights(torch, pair):
    theirs, mine, handle, _ = pair
    handle.merge()
    merged = theirs.merge_and_unload()
    state = {n: p.numpy(force=True) for n, p in merged.named_parameters() if n != "lm_head.weight"}
    for path, array in ours(state).items():
        close(mine.state_dict()[path], array, 1e-12)
    close(mine(TOKENS).data, logits(torch, merged).numpy(force=True))


@pytest.mark.parametrize("case", ["dora", "dora, all"])
def test_dora_starts_from_the_same_lengths(case, torch, peft, make_gpt2):
    theirs, _, handle, names = both(case, peft, make_gpt2)
    values = translated(theirs, names)
    for path, w in handle.wrappers.items():
        close(w.m.data, values[f"{path}.m"], 1e-12)


# -- PiSSA ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "targets"), [(MLP, ("fc_in", "fc_out")),
                                                (["attn.c_proj"], "o_proj")])  # fmt: skip
def test_pissa(names, targets, torch, peft, make_gpt2):
    """PEFT starts in float32, so the residual that it writes over W is rounded there."""
    base = make_gpt2(SIZES).float()
    state = {n: p.numpy(force=True) for n, p in base.named_parameters() if n != "lm_head.weight"}
    model = GPT(SIZES, dtype=np.float64)
    model.load_state_dict(ours(state))
    y = model(TOKENS).data
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=names, fan_in_fan_out=True,
                             init_lora_weights="pissa")  # fmt: skip
    theirs = peft.get_peft_model(base, config).double().eval()
    handle = attach(model, PiSSA(r=4, alpha=8.0, targets=targets))
    close(logits(torch, theirs).numpy(force=True), y, 1e-5)
    values = translated(theirs, NAMES)
    for path, w in handle.wrappers.items():
        weight = w.base.weight.data
        s = np.linalg.svd(weight, compute_uv=False)
        # how far a float32 SVD may turn the first r directions: its rounding over their gap
        turn = max(weight.shape) * np.finfo(np.float32).eps * s[0] / (s[3] - s[4])
        close(w.B.data @ w.A.data, values[f"{path}.B"] @ values[f"{path}.A"], turn)
        close(abs(w.A.data), abs(values[f"{path}.A"]), 1e-4)  # singular vectors have no sign
        w.A0.data, w.B0.data = (values[f"{path}.{x}"].astype(float) for x in "AB")
    with torch.no_grad():
        for i, (_, p) in enumerate(trained(theirs)):
            p += torch.from_numpy(0.3 * Rng(5, i).normal(tuple(p.shape)))
    put(handle, translated(theirs, NAMES))
    z = logits(torch, theirs)
    close(model(TOKENS).data, z.numpy(force=True), 1e-5)
    torch.nn.functional.cross_entropy(
        z[:, :-1].reshape(-1, 61), torch.from_numpy(TOKENS[:, 1:].ravel())
    ).backward()
    fused.cross_entropy(model(TOKENS)[:, :-1], TOKENS[:, 1:]).backward()
    wanted = translated(theirs, NAMES, "grad")
    for path, p in handle.trainable():
        close(p.grad, wanted[path], 1e-4)


# -- AdaLoRA --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["adalora", "adalora, mlp"])
def test_adalora_s_penalty(case, torch, peft, make_gpt2):
    theirs, _, handle, names = both(case, peft, make_gpt2)
    put(handle, translated(theirs, names))
    ids, model = torch.from_numpy(TOKENS), theirs.base_model  # above it the penalty is left out
    whole = model(ids, labels=ids).loss.item()
    theirs.peft_config["default"].orth_reg_weight = 0.0
    assert handle.extra_loss().item() == pytest.approx(whole - model(ids, labels=ids).loss.item())


@pytest.mark.parametrize("case", ["adalora", "adalora, mlp"])
def test_adalora_cuts_the_same_values(case, torch, peft, make_gpt2):
    """Over a run of 20 steps with random weights and gradients."""
    theirs, _, handle, names = both(case, peft, make_gpt2)
    counts = []
    for t in range(1, 21):
        with torch.no_grad():
            for n, p in trained(theirs):
                p += torch.from_numpy(Rng(t, n).normal(tuple(p.shape)))
                p.grad = torch.from_numpy(Rng(t, "g", n).normal(tuple(p.shape)))
        put(handle, translated(theirs, names))
        grads = translated(theirs, names, "grad")
        for path, p in handle.trainable():
            p.grad = grads[path]
        theirs.base_model.update_and_allocate(t)
        handle.before_step(t - 1, 20)
        handle.after_step(t - 1, 20)
        values = translated(theirs, names)
        for path, p in handle.trainable():
            assert np.array_equal(p.data, values[path]), (t, path)
        counts.append(sum(adalora.ranks(handle).values()))
    n = len(adalora.groups(handle))
    assert counts[:3] == [4 * n] * 3 and counts[13:] == [2 * n] * 7
    assert len(set(counts)) > 3


# -- LoftQ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [1, 3])
def test_loftq(turns, torch, peft):
    """PEFT's loop on a GPU's arrays, here with bitsandbytes' codes on the CPU."""
    from peft.utils.loftq_utils import _low_rank_decomposition

    bnb = pytest.importorskip("bitsandbytes", reason="parity: bitsandbytes is not installed")
    W = torch.from_numpy(Rng(2).normal((64, 128)).astype(np.float32))
    left = W
    for _ in range(turns):
        packed, state = bnb.functional.quantize_4bit(left, blocksize=64, quant_type="nf4")
        Q = bnb.functional.dequantize_4bit(packed, state)
        parts = _low_rank_decomposition(W - Q, reduced_rank=6)
        B, A = parts["L"], parts["R"]
        left = W - B @ A
    config = GPTConfig(vocab=5, context=4, width=64, layers=1, heads=2, mlp=128)
    model = GPT(config)
    model.get("blocks.0.mlp.fc_out").weight.data = W.numpy()
    w = attach(model, LoftQ(r=6, alpha=6.0, T=turns, double=False, targets="fc_out")).wrappers
    w = w["blocks.0.mlp.fc_out"]
    same = (abs(w.base.weight.data - Q.numpy()) < 1e-6).mean()  # its table has 7 digits
    assert same == 1.0 if turns == 1 else same > 0.999  # codes at an edge may fall either way
    close(w.B.data @ w.A.data, (B @ A).numpy(), 1e-4 if turns == 1 else 1e-2)
