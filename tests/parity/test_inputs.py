"""Prefix tuning, prompt tuning and P-tuning against PEFT's on the same GPT-2, in float64."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused
from minipeft.methods import Prefix, Prompt, PTuning
from minipeft.models import GPT, GPTConfig
from tests.golden import ours

SIZES = GPTConfig(vocab=61, context=24, width=24, layers=3, heads=3, mlp=40)
TOKENS = Rng(0).integers(0, 61, (3, 10))
N = 4
PREFIX = {"Q": "embedding.weight", "W1": "transform.0.weight", "b1": "transform.0.bias",
          "W2": "transform.2.weight", "b2": "transform.2.bias"}  # fmt: skip
MLP = {"E": "embedding.weight"} | {
    f"{ours}{i}": f"mlp_head.{2 * i}.{theirs}"
    for i in range(3)
    for ours, theirs in (("W", "weight"), ("b", "bias"))
}
LSTM = {"E": "embedding.weight"} | {
    f"{ours}_{layer}{way}": f"lstm_head.{theirs}_l{layer}{'_reverse' * (way == 'b')}"
    for layer in range(2)
    for way in "fb"
    for ours, theirs in (("Wx", "weight_ih"), ("Wh", "weight_hh"), ("bx", "bias_ih"),
                         ("bh", "bias_hh"))
} | {name: MLP[name] for name in ("W0", "b0", "W1", "b1")}  # fmt: skip
CASES = {  # PEFT's kind and settings, our method, and our names for PEFT's
    "prompt": ("PromptTuningConfig", {}, Prompt(n=N), {"emb.tok.P": "embedding.weight"}),
    "prefix": ("PrefixTuningConfig", {}, Prefix(n=N), {"start.P": "embedding.weight"}),
    "projected prefix": (
        "PrefixTuningConfig",
        {"prefix_projection": True, "encoder_hidden_size": 7},
        Prefix(n=N, mlp=7),
        PREFIX,
    ),
    "P-tuning, MLP": (
        "PromptEncoderConfig",
        {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": 7},
        PTuning(n=N, h=7),
        MLP,
    ),
    "P-tuning, LSTM": (
        "PromptEncoderConfig",
        {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 7},
        PTuning(n=N, h=7, encoder="lstm"),
        LSTM,
    ),
}


@pytest.fixture(params=CASES)
def pair(request, torch, peft, make_gpt2):
    """PEFT's model, ours, our handle, and PEFT's trained parameters by our names."""
    kind, settings, method, names = CASES[request.param]
    base = make_gpt2(SIZES)
    state = {n: p.numpy(force=True) for n, p in base.named_parameters() if n != "lm_head.weight"}
    model = GPT(SIZES, dtype=np.float64)
    model.load_state_dict(ours(state))
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=N, **settings)
    theirs = peft.get_peft_model(base, config, autocast_adapter_dtype=False).double().eval()
    encoder = theirs.prompt_encoder["default"]
    with torch.no_grad():
        for i, p in enumerate(encoder.parameters()):
            p.copy_(torch.from_numpy(0.3 * Rng(5, i).normal(tuple(p.shape))))
    handle = attach(model, method)
    by_name = {ours: encoder.get_parameter(theirs) for ours, theirs in names.items()}
    assert {id(p) for p in by_name.values()} == {id(p) for p in encoder.parameters()}
    for path, p in handle.trainable():
        p.data = by_name[short(path)].numpy(force=True).copy()
    return theirs, model, handle, by_name


def short(path):
    """The name of an array of a network, which stands under its method's; or the whole path."""
    return path.rpartition(".")[2] if path.startswith(("prefix", "ptuning")) else path


def logits(torch, model, mask=None):
    """PEFT's logits of the text alone: those of a prompt come first."""
    mask = None if mask is None else torch.from_numpy(mask.astype(int))
    z = model(torch.from_numpy(TOKENS), attention_mask=mask).logits
    return z[:, -TOKENS.shape[1] :]


def test_logits_and_counts(torch, pair):
    theirs, mine, handle, by_name = pair
    z = logits(torch, theirs).detach().numpy()
    assert np.abs(mine(TOKENS).data - z).max() < 1e-10 * np.abs(z).max()
    assert handle.count() == sum(p.numel() for p in by_name.values())


def test_padding_on_the_right(torch, pair):
    theirs, mine, *_ = pair
    mask = np.arange(10) < np.array([[10], [7], [2]])
    z = logits(torch, theirs, mask).detach().numpy()
    assert np.abs(mine(TOKENS, mask=mask).data - z)[mask].max() < 1e-10 * np.abs(z).max()


def test_gradients(torch, pair):
    theirs, mine, handle, by_name = pair
    z = logits(torch, theirs)[:, :-1].reshape(-1, 61)
    torch.nn.functional.cross_entropy(z, torch.from_numpy(TOKENS[:, 1:].ravel())).backward()
    fused.cross_entropy(mine(TOKENS)[:, :-1], TOKENS[:, 1:]).backward()
    for path, p in handle.trainable():
        wanted = by_name[short(path)].grad.numpy()
        assert np.abs(wanted).max() > 0 and np.abs(p.grad - wanted).max() < 1e-10, path


def test_a_file_of_peft_holds_what_ours_does(peft, pair):
    """The values alone, without the network that made them, in the same order."""
    theirs, _, handle, _ = pair
    saved = peft.get_peft_model_state_dict(theirs)
    assert list(saved) == ["prompt_embeddings"]
    (name,) = {"start.P", "emb.tok.P"} & {*handle.computed, *handle.trained}
    made = handle.method.compute(handle)
    P = (made or handle.trained)[name].data
    z = saved["prompt_embeddings"].numpy(force=True)
    assert P.shape == z.shape and np.abs(P - z).max() < 1e-12
