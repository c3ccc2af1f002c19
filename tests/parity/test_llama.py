"""LLaMA against transformers' with the same random weights, in float64.

transformers computes norms and the angles of positions in float32 whatever the model's dtype. So
it is compared twice: as it is, to 1e-5, and with these two in float64, to 1e-10.
"""

import dataclasses
import re

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused
from minipeft.methods import IA3, LNTuning
from minipeft.models import LLaMA, LLaMAConfig

SIZES = LLaMAConfig(
    vocab=61, context=24, width=24, layers=3, heads=6, kv_heads=2, mlp=40, theta=500.0, eps=1e-4
)
CONFIGS = {
    "untied": SIZES,
    "tied": dataclasses.replace(SIZES, tied=True),
    "all heads": dataclasses.replace(SIZES, kv_heads=None, theta=10_000.0),
    "wide heads": dataclasses.replace(SIZES, kv_heads=1, head_width=10),
}
TOKENS = Rng(0).integers(0, 61, (3, 10))
NAMES = {  # of theirs -> ours
    r"model\.embed_tokens": "emb.tok", r"model\.layers": "blocks", "self_attn": "attn",
    "gate_proj": "gate", "up_proj": "fc_in", "down_proj": "fc_out", "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2", r"model\.norm": "ln_f", "lm_head": "head",
}  # fmt: skip


def ours(name):
    for theirs, mine in NAMES.items():
        name = re.sub(rf"(^|\.){theirs}\.", rf"\1{mine}.", name)
    return name


def make(torch, transformers, c):
    """transformers' model of our config's sizes, with random weights of O(0.3)."""
    config = transformers.LlamaConfig(
        vocab_size=c.vocab, max_position_embeddings=c.context, hidden_size=c.width,
        num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads or c.heads, head_dim=c.head_width or c.width // c.heads,
        intermediate_size=c.mlp, rms_norm_eps=c.eps, tie_word_embeddings=c.tied,
        rope_parameters={"rope_type": "default", "rope_theta": c.theta},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).double().eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
    return model


def in_double(torch, model):
    """Its norms and angles in float64."""
    theta = model.config.rope_parameters["rope_theta"]
    width = model.config.head_dim

    def norm(part):
        def forward(x):
            return part.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

        eps = part.variance_epsilon
        part.forward = forward

    def angles(x, position_ids):
        powers = torch.arange(0, width, 2, dtype=torch.float64) / width
        t = position_ids[..., None].double() / theta**powers
        both = torch.cat((t, t), dim=-1)
        return both.cos(), both.sin()

    for part in model.modules():
        if type(part).__name__ == "LlamaRMSNorm":
            norm(part)
    model.model.rotary_emb.forward = angles
    return model


def near(y, z, tol=1e-10):
    z = z.detach().numpy()
    assert y.shape == z.shape and np.abs(y - z).max() <= tol * np.abs(z).max()


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def theirs(torch, transformers, config):
    return make(torch, transformers, config)


@pytest.fixture
def mine(theirs, config):
    model = LLaMA(config, dtype=np.float64)
    state = {ours(name): p.data.numpy() for name, p in theirs.named_parameters()}
    model.load_state_dict(state)
    return model


def test_logits(torch, theirs, mine):
    ids = torch.from_numpy(TOKENS)
    near(mine(TOKENS).data, theirs(ids).logits, 1e-5)
    near(mine(TOKENS).data, in_double(torch, theirs)(ids).logits)


def test_loss_and_every_gradient(torch, theirs, mine):
    labels = np.where(TOKENS % 7 == 0, -100, TOKENS)
    logits = in_double(torch, theirs)(torch.from_numpy(TOKENS)).logits[:, :-1]
    wanted = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 61), torch.from_numpy(labels[:, 1:].ravel())
    )
    wanted.backward()
    loss = fused.cross_entropy(mine(TOKENS)[:, :-1], labels[:, 1:])
    loss.backward()
    assert abs(loss.item() - wanted.item()) < 1e-12
    gradients = {ours(name): p.grad.numpy() for name, p in theirs.named_parameters()}
    for name, p in mine.named_parameters():
        assert np.abs(p.grad - gradients.pop(name)).max() < 1e-10, name
    assert not gradients


def test_padding_on_the_left(torch, theirs, mine):
    mask = np.arange(10)[None] >= np.array([[0], [3], [7]])
    y = mine(TOKENS, mask=mask).data
    z = in_double(torch, theirs)(
        torch.from_numpy(TOKENS),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        position_ids=torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0)),
    ).logits
    near(y[mask], z[torch.from_numpy(mask)])


def test_the_cache(torch, theirs, mine):
    theirs = in_double(torch, theirs)
    first = theirs(torch.from_numpy(TOKENS[:, :6]), use_cache=True)
    y, past = mine(TOKENS[:, :6], return_past=True)
    near(y.data, first.logits)
    for (k, v), layer in zip(past, first.past_key_values.layers, strict=True):
        for array, other in ((k, layer.keys), (v, layer.values)):  # other (B, K, T, D)
            near(array.data, other.swapaxes(1, 2).reshape(array.shape))
    second = theirs(torch.from_numpy(TOKENS[:, 6:]), past_key_values=first.past_key_values)
    near(mine(TOKENS[:, 6:], past=past).data, second.logits)


def test_greedy_tokens(torch, theirs, mine):
    """By our cache and by theirs."""
    ids = torch.from_numpy(TOKENS[:1, :4])
    wanted = theirs.generate(
        ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, 4:].tolist()
    tokens, past, said = TOKENS[:1, :4], None, []
    while len(said) < 12:
        y, past = mine(tokens, past=past, return_past=True)
        said.append(int(y.data[0, -1].argmax()))
        tokens = np.array([[said[-1]]])
    assert said == wanted


@pytest.mark.parametrize(("kind", "method"), [("IA3", IA3()), ("LNTuning", LNTuning())])
def test_scales_and_norms_as_peft_has_them(torch, peft, theirs, mine, kind, method):
    """At PEFT's own places for a LLaMA, which are ours."""
    config = getattr(peft, f"{kind}Config")()
    theirs = peft.get_peft_model(theirs, config, autocast_adapter_dtype=False).double()
    in_double(torch, theirs.base_model.model)
    trained = {}
    for i, (name, p) in enumerate(theirs.named_parameters()):
        if p.requires_grad:
            p.data = torch.from_numpy(1 + 0.3 * Rng(5, i).normal(tuple(p.shape)))
            name = name.removeprefix("base_model.model.").replace("ln_tuning_layers.default.", "")
            trained[ours(name).replace("ia3_l.default", "l")] = p
    handle = attach(mine, method)
    assert trained.keys() == {path for path, _ in handle.trainable()}
    for path, p in handle.trainable():
        p.data = trained[path].numpy(force=True).reshape(-1).copy()
    logits, y = theirs(torch.from_numpy(TOKENS)).logits, mine(TOKENS)
    near(y.data, logits)
    labels = torch.from_numpy(TOKENS[:, 1:].ravel())
    torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 61), labels).backward()
    fused.cross_entropy(y[:, :-1], TOKENS[:, 1:]).backward()
    for path, p in handle.trainable():
        wanted = trained[path].grad.numpy().reshape(-1)
        assert np.abs(wanted).max() > 1e-5 and np.abs(p.grad - wanted).max() < 1e-10, path
