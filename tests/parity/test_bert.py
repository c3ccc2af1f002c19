"""BERT against transformers' BertModel with the same random weights, on pairs, in float64."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.contract.watching import outputs
from minipeft.methods import LoRA
from minipeft.models import BERT, BERTConfig
from minipeft.training.batches import TaskBatches
from minipeft.training.loop import fit
from tests.golden import BERT_BLOCK, BERT_TOP, renamed
from tests.tiny import PAIRS, wordpiece

VOCAB = wordpiece().vocab_size


@pytest.fixture(scope="module")
def theirs(torch, transformers):
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=40, max_position_embeddings=24,
    )  # fmt: skip
    model = transformers.BertModel(config).double().eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
    return model


def twin(model, pool):
    """Our BERT with the weights of a BertModel, and a head of its own."""
    config = BERTConfig(vocab=VOCAB, context=24, width=24, layers=3, heads=3, mlp=40, pool=pool,
                        head="linear", classes=2)  # fmt: skip
    bert = BERT(config, dtype=np.float64)
    arrays = {f"bert.{name}": p.detach().numpy() for name, p in model.named_parameters()}
    state = renamed(arrays, BERT_TOP, BERT_BLOCK)
    state |= {f"head.{name}": p.data for name, p in bert.head.named_parameters()}
    bert.load_state_dict({n: a for n, a in state.items() if pool == "first" or "pooler" not in n})
    bert.tokenizer = wordpiece()
    return bert


@pytest.fixture
def read(torch, transformers):
    """transformers' ids, segments and mask of all pairs."""
    inner = wordpiece()
    vocab = {inner.token(i): i for i in range(VOCAB)}
    theirs = transformers.BertTokenizer(vocab=vocab)
    given = theirs([e.pair for e in PAIRS], padding=True, return_token_type_ids=True)
    return {name: torch.tensor(value) for name, value in given.items()}


def near(y, z, tol=1e-10):
    z = z.detach().numpy()
    assert y.shape == z.shape and np.abs(y - z).max() <= tol * np.abs(z).max()


def check(torch, theirs, bert, read):
    """The same ids, segments, hidden states, and what the head reads."""
    data = TaskBatches.of(bert, PAIRS).collate(range(len(PAIRS)))
    real = read["attention_mask"].numpy() > 0
    assert np.array_equal(data.ids, read["input_ids"].numpy()) and np.array_equal(data.mask, real)
    assert np.array_equal(data.segments, read["token_type_ids"].numpy())
    assert data.segments.any() and not real.all()
    with torch.no_grad():
        wanted = theirs(**read)
    hidden = torch.from_numpy(real)
    [(_, seen)] = outputs(bert, [data], ("re:blocks\\.2", "head"))
    near(seen["blocks.2"][real], wanted.last_hidden_state[hidden])
    pooled = wanted.pooler_output
    if bert.config.pool == "mean":
        share = hidden[..., None].double()
        pooled = (wanted.last_hidden_state * share).sum(1) / share.sum(1)
    head = [torch.from_numpy(p.data) for p in (bert.head.weight, bert.head.bias)]
    near(seen["head"], torch.nn.functional.linear(pooled, *head))


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_pairs_before_training_and_after_lora_is_merged(torch, theirs, read, pool):
    bert = twin(theirs, pool)
    check(torch, theirs, bert, read)
    at = attach(bert, LoRA(r=2))
    history = fit(bert, TaskBatches.of(bert, PAIRS), steps=40, lr=0.01, batch=8, quiet=True)
    assert np.mean(history.loss[-10:]) < np.mean(history.loss[:10])
    at.merge()
    moved = dict(theirs.named_parameters())
    back = {ours: theirs for theirs, ours in BERT_BLOCK.items()}
    with torch.no_grad():
        for i in range(3):
            for part in ("attn.q_proj", "attn.v_proj"):
                there = moved[f"encoder.layer.{i}.{back[part]}.weight"]
                there.copy_(torch.from_numpy(bert.get(f"blocks.{i}.{part}").weight.data))
    check(torch, theirs, bert, read)
