"""Top-K: what trains, and that nothing below the cut runs backward or is kept."""

import pytest

from minipeft.contract import attach
from minipeft.engine.graph import held, operations, tape
from minipeft.engine.tensor import topological
from minipeft.methods import TopK
from minipeft.models import GPT
from minipeft.models.presets import preset
from tests.methods.contract import CASES, Case


@pytest.mark.parametrize(
    ("name", "method", "count"),
    [
        ("gpt2", TopK(k=2), 14_175_744),
        ("gpt2-medium", TopK(k=2), 25_192_448),
        ("gpt2-large", TopK(k=2), 39_354_880),
        ("gpt2-medium", TopK(k=2, ln_f=True), 25_194_496),
        ("gpt2-medium", TopK(k=1), 12_596_224),
    ],
)
def test_counts(name, method, count):
    assert attach(GPT(preset(name), init="shape"), method).count() == count


def output(layers, k):
    """The output of a model of so many layers, of which k train."""
    model = Case(TopK(k)).model(layers=layers)
    attach(model, TopK(k))
    return model, model(CASES["topk"].inputs())


def bytes_held(y):
    """Of activations, over the whole tape."""
    seen = set()
    return sum(held(node, seen) for node in topological(y._node) if hasattr(node, "vjps"))


def test_the_tape_is_as_long_as_k_and_not_as_the_model():
    lengths = {(n, k): len(operations(output(n, k)[1])) for n in (3, 6) for k in (1, 2, 3)}
    assert lengths[3, 1] == lengths[6, 1] and lengths[3, 2] == lengths[6, 2]
    block = lengths[6, 2] - lengths[6, 1]
    assert lengths[6, 3] - lengths[6, 2] == block > 10


def test_no_activation_below_the_cut_is_kept():
    sizes = {(n, k): bytes_held(output(n, k)[1]) for n in (3, 6) for k in (1, 2)}
    assert sizes[3, 1] == sizes[6, 1] < sizes[6, 2] == sizes[3, 2]


def test_the_cut_is_visible_in_the_tape():
    model, y = output(4, 1)
    text = tape(y, dict(model.named_parameters()))
    assert "blocks.3.attn.q_proj.weight" in text and "blocks.3.mlp.fc_out.bias" in text
    assert not any(f"blocks.{i}." in text for i in (0, 1, 2)) and "emb.pos" not in text


def test_nothing_below_gets_a_gradient():
    model, y = output(3, 1)
    y.sum().backward()
    for place in model.places():
        assert (place.parameter.grad is not None) == place.path.startswith("blocks.2."), place.path


@pytest.mark.parametrize("k", [0, -1, 1.0, True, "2"])
def test_k_is_a_whole_number(k):
    with pytest.raises(ValueError, match="TopK: k must be (a whole number >= 1|int), got"):
        TopK(k)


def test_k_above_the_model_is_refused():
    with pytest.raises(ValueError, match="k = 3 is more than the model's 2 blocks"):
        attach(CASES["topk"].model(), TopK(3))
