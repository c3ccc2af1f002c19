"""LoRA against PEFT's on the same GPT-2, in float64."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused
from minipeft.methods import LoRA
from minipeft.models import GPT, GPTConfig
from tests.golden import CONV1D, lora_shapes, our_lora, ours

SIZES = GPTConfig(vocab=61, context=24, width=24, layers=3, heads=3, mlp=40)
TOKENS = Rng(0).integers(0, 61, (3, 10))
QKV = ("q_proj", "k_proj", "v_proj")
CASES = {
    "c_attn": (["c_attn"], False, LoRA(r=4, alpha=8.0, targets=QKV, fused=QKV)),
    "c_proj of attention": (["attn.c_proj"], False, LoRA(r=4, alpha=8.0, targets="o_proj")),
    "both parts of the MLP": (
        ["c_fc", "mlp.c_proj"],
        False,
        LoRA(r=4, alpha=8.0, targets=("fc_in", "fc_out")),
    ),
    "all, rsLoRA": (
        "all-linear",
        True,
        LoRA(r=4, alpha=8.0, targets="all-linear", fused=QKV, rslora=True),
    ),
}


@pytest.fixture(params=CASES)
def pair(request, torch, peft, make_gpt2):
    """PEFT's model, ours, and our handle, with the same random A and B."""
    targets, rslora, method = CASES[request.param]
    base = make_gpt2(SIZES)
    state = {n: p.numpy(force=True) for n, p in base.named_parameters() if n != "lm_head.weight"}
    model = GPT(SIZES, dtype=np.float64)
    model.load_state_dict(ours(state))
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, use_rslora=rslora, fan_in_fan_out=True
    )
    theirs = peft.get_peft_model(base, config, autocast_adapter_dtype=False).double().eval()
    names = [n for n, p in theirs.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for i, name in enumerate(names):
            p = theirs.get_parameter(name)
            p.copy_(torch.from_numpy(0.3 * Rng(5, i).normal(tuple(p.shape))))
    handle = attach(model, method)
    values = our_lora(adapter(theirs))
    for path, p in handle.trainable():
        p.data = values.pop(path).copy()
    assert not values
    return theirs, model, handle


def adapter(theirs, kind="data"):
    """The trained arrays, or their gradients, by the names of PEFT's files."""
    return {
        name.replace(".default", ""): getattr(p, kind).numpy(force=True)
        for name, p in theirs.named_parameters()
        if p.requires_grad
    }


def logits(torch, model):
    return model(torch.from_numpy(TOKENS)).logits


def test_names_and_shapes_are_those_of_peft(pair):
    found = {name: a.shape for name, a in adapter(pair[0]).items()}
    targets = [name for name in CONV1D if any(f".{name}." in key for key in found)]
    assert found == lora_shapes(SIZES, targets, 4)


def test_logits_and_counts(torch, pair):
    theirs, mine, handle = pair
    z = logits(torch, theirs).detach().numpy()
    assert np.abs(mine(TOKENS).data - z).max() < 1e-10 * np.abs(z).max()
    assert handle.count() == theirs.get_nb_trainable_parameters()[0]


def test_gradients(torch, pair):
    theirs, mine, handle = pair
    z = logits(torch, theirs)[:, :-1].reshape(-1, 61)
    torch.nn.functional.cross_entropy(z, torch.from_numpy(TOKENS[:, 1:].ravel())).backward()
    fused.cross_entropy(mine(TOKENS)[:, :-1], TOKENS[:, 1:]).backward()
    wanted = our_lora(adapter(theirs, "grad"))
    for path, p in handle.trainable():
        assert np.abs(p.grad - wanted.pop(path)).max() < 1e-10, path
    assert not wanted


def test_merged_weights(torch, pair):
    theirs, mine, handle = pair
    handle.merge()
    merged = theirs.merge_and_unload()
    state = {n: p.numpy(force=True) for n, p in merged.named_parameters() if n != "lm_head.weight"}
    for path, array in ours(state).items():
        assert np.abs(mine.state_dict()[path] - array).max() < 1e-12, path
    z = logits(torch, merged).detach().numpy()
    assert np.abs(mine(TOKENS).data - z).max() < 1e-10 * np.abs(z).max()
