"""GPT against transformers' GPT-2 with the same random weights, in float64."""

import dataclasses

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import fused
from minipeft.models import GPT, GPTConfig
from tests.golden import CONFIG, IDS, columns, fill, golden_gpt, gpt2_shapes, ours

SIZES = GPTConfig(vocab=61, context=24, width=24, layers=3, heads=3, mlp=40)
TOKENS = Rng(0).integers(0, 61, (3, 10))


def arrays(model, kind="data"):
    """A torch model's parameters, or their gradients, by name."""
    found = {name: getattr(p, kind).numpy() for name, p in model.named_parameters()}
    return {name: a for name, a in found.items() if name != "lm_head.weight"}


def twin(model, config=SIZES):
    """Our GPT with the weights of a transformers one."""
    state = arrays(model)
    head = {"head.weight": state.pop("score.weight")} if config.head == "linear" else {}
    gpt = GPT(config, dtype=np.float64)
    gpt.load_state_dict(ours(state) | head)
    return gpt


def near(y, z, tol=1e-10):
    z = z.detach().numpy()
    assert y.shape == z.shape and np.abs(y - z).max() <= tol * np.abs(z).max()


@pytest.fixture(scope="module")
def theirs(make_gpt2):
    return make_gpt2(SIZES)


@pytest.fixture
def mine(theirs):
    return twin(theirs)


def test_golden_names_shapes_and_values_are_those_of_gpt2(torch, make_gpt2):
    model = make_gpt2(CONFIG)
    shapes = {name: array.shape for name, array in arrays(model).items()}
    assert shapes == gpt2_shapes(CONFIG)
    values = {name: torch.from_numpy(a) for name, a in fill(shapes).items()}
    model.load_state_dict(values, strict=False)
    y = model(torch.from_numpy(IDS)).logits
    near(golden_gpt()(IDS).data, y, 1e-14)
    assert abs(columns(y.detach())[-1] - -13.7217429) < 1e-7


def test_logits(torch, theirs, mine):
    near(mine(TOKENS).data, theirs(torch.from_numpy(TOKENS)).logits)


def test_loss_and_every_gradient(torch, theirs, mine):
    labels = np.where(TOKENS % 7 == 0, -100, TOKENS)
    logits = theirs(torch.from_numpy(TOKENS)).logits[:, :-1]
    wanted = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 61), torch.from_numpy(labels[:, 1:].ravel()), label_smoothing=0.1
    )
    theirs.zero_grad()
    wanted.backward()
    loss = fused.cross_entropy(mine(TOKENS)[:, :-1], labels[:, 1:], smoothing=0.1)
    loss.backward()
    assert abs(loss.item() - wanted.item()) < 1e-12
    gradients = ours(arrays(theirs, "grad"))
    for name, p in mine.named_parameters():
        assert np.abs(p.grad - gradients.pop(name)).max() < 1e-10, name
    assert not gradients


def test_padding_on_the_left(torch, theirs, mine):
    mask = np.arange(10)[None] >= np.array([[0], [3], [7]])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    y = mine(TOKENS, mask=mask).data
    z = theirs(
        torch.from_numpy(TOKENS),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        position_ids=torch.from_numpy(positions),
    ).logits
    near(y[mask], z[torch.from_numpy(mask)])


def test_the_cache(torch, theirs, mine):
    first = theirs(torch.from_numpy(TOKENS[:, :6]), use_cache=True)
    y, past = mine(TOKENS[:, :6], return_past=True)
    near(y.data, first.logits)
    for (k, v), layer in zip(past, first.past_key_values.layers, strict=True):
        for array, other in ((k, layer.keys), (v, layer.values)):  # other (B, H, T, D)
            near(array.data, other.swapaxes(1, 2).reshape(3, 6, 24))
    second = theirs(torch.from_numpy(TOKENS[:, 6:]), past_key_values=first.past_key_values)
    near(mine(TOKENS[:, 6:], past=past).data, second.logits)


def test_sequence_classification(torch, make_gpt2):
    model = make_gpt2(SIZES, "GPT2ForSequenceClassification", num_labels=4, pad_token_id=60)
    gpt = twin(model, dataclasses.replace(SIZES, head="linear", classes=4))
    ids = TOKENS % 60
    mask = np.arange(10)[None] < np.array([[10], [6], [3]])
    ids = np.where(mask, ids, 60)
    z = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask.astype(np.int64)))
    near(gpt(ids, mask=mask).data, z.logits)
