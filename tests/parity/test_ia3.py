"""IA3 and LN tuning against PEFT's on the same GPT-2, and IA3 on the same BERT, in float64."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused
from minipeft.methods import IA3, LNTuning
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig
from tests.golden import BERT_BLOCK, BERT_TOP, ours, parts, renamed

GPT2 = GPTConfig(vocab=61, context=24, width=24, layers=3, heads=3, mlp=40)
TOKENS = Rng(0).integers(0, 61, (3, 10))
QKV = ("q_proj", "k_proj", "v_proj")
CASES = {  # PEFT's config by name and settings, and our method
    "PEFT's places": ("IA3Config", {}, IA3((*QKV, "fc_out"))),
    "attention's output": (
        "IA3Config",
        {"target_modules": ["attn.c_proj"], "feedforward_modules": []},
        IA3("o_proj", ()),
    ),
    "attention's input": (
        "IA3Config",
        {
            "target_modules": ["c_attn", "c_fc", "attn.c_proj"],
            "feedforward_modules": ["attn.c_proj"],
        },
        IA3((*QKV, "fc_in", "o_proj"), ("o_proj",)),
    ),
    "norms": ("LNTuningConfig", {}, LNTuning()),
}


def trained(theirs, kind="data"):
    """PEFT's trained arrays, or their gradients, by our paths."""
    found = {}
    for name, p in theirs.named_parameters():
        if not p.requires_grad:
            continue
        array = getattr(p, kind).numpy(force=True)
        name = name.removeprefix("base_model.model.").replace(".default", "")
        if ".ln_tuning_layers." in name:
            norm, _, leaf = name.partition(".ln_tuning_layers.")
            (path,) = parts(norm)
            found[f"{path}.{leaf}"] = array
        else:
            paths = parts(name.removesuffix(".ia3_l"))
            rows = np.split(array.reshape(-1), len(paths))
            found |= {f"{path}.l": row for path, row in zip(paths, rows, strict=True)}
    return found


def spread(torch, theirs):
    """Random values of O(0.3) about 1 in all that trains."""
    names = [n for n, p in theirs.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for i, name in enumerate(names):
            p = theirs.get_parameter(name)
            p.copy_(torch.from_numpy(1 + 0.3 * Rng(5, i).normal(tuple(p.shape))))


@pytest.fixture(params=CASES)
def pair(request, torch, peft, make_gpt2):
    """PEFT's model, ours, and our handle, with the same random values."""
    kind, settings, method = CASES[request.param]
    base = make_gpt2(GPT2)
    state = {n: p.numpy(force=True) for n, p in base.named_parameters() if n != "lm_head.weight"}
    model = GPT(GPT2, dtype=np.float64)
    model.load_state_dict(ours(state))
    if kind == "IA3Config":
        settings = settings | {"fan_in_fan_out": True}
    config = getattr(peft, kind)(**settings)
    theirs = peft.get_peft_model(base, config, autocast_adapter_dtype=False).double().eval()
    handle = attach(model, method)
    spread(torch, theirs)
    values = trained(theirs)
    for path, p in handle.trainable():
        p.data = values.pop(path).copy()
    assert not values
    return theirs, model, handle


def logits(torch, model):
    return model(torch.from_numpy(TOKENS)).logits


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
    wanted = trained(theirs, "grad")
    assert max(np.abs(g).max() for g in wanted.values()) > 1e-3
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


def test_bert(torch, transformers, peft):
    """PEFT's places, where what the o_proj reads is scaled too."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = transformers.BertConfig(
        vocab_size=61, intermediate_size=40, max_position_embeddings=24, num_labels=3, **sizes
    )
    base = transformers.BertForSequenceClassification(config).double().eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in base.parameters():
            p += 0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
    mine = BERT(
        BERTConfig(vocab=61, context=24, width=24, layers=3, heads=3, mlp=40, head="linear",
                   classes=3), dtype=np.float64,
    )  # fmt: skip
    state = {n: p.numpy(force=True) for n, p in base.named_parameters()}
    mine.load_state_dict(renamed(state, BERT_TOP, BERT_BLOCK))
    theirs = peft.get_peft_model(base, peft.IA3Config(), autocast_adapter_dtype=False)
    spread(torch, theirs.double().eval())
    handle = attach(mine, IA3(("k_proj", "v_proj", "o_proj", "fc_out"), ("o_proj", "fc_out")))

    def renamed_vectors(kind):
        found = {}
        for name, p in theirs.named_parameters():
            if p.requires_grad:
                layer, _, part = name.partition(".encoder.layer.")[2].partition(".")
                part = BERT_BLOCK[part.partition(".ia3_l")[0]]
                found[f"blocks.{layer}.{part}.l"] = getattr(p, kind).numpy(force=True).reshape(-1)
        return found

    values = renamed_vectors("data")
    for path, p in handle.trainable():
        if path not in handle.head:
            p.data = values.pop(path).copy()
    assert not values and handle.count() == theirs.get_nb_trainable_parameters()[0]
    z, y, labels = logits(torch, theirs), mine(TOKENS), np.array([2, 0, 1])
    near = z.detach().numpy()
    assert np.abs(y.data - near).max() < 1e-10 * np.abs(near).max()
    torch.nn.functional.cross_entropy(z, torch.from_numpy(labels)).backward()
    fused.cross_entropy(y, labels).backward()
    wanted = renamed_vectors("grad")
    assert max(np.abs(g).max() for g in wanted.values()) > 1e-3
    for path, p in handle.trainable():
        assert path in handle.head or np.abs(p.grad - wanted[path]).max() < 1e-10, path
