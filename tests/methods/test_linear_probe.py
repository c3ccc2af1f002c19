"""A linear probe: what trains is a new head, which there must be."""

import pytest

from minipeft.contract import attach
from minipeft.methods import LinearProbe, LoRA
from minipeft.training.loop import fit
from tests.methods.contract import CASES, on, same


@pytest.mark.parametrize("kind", ["gpt", "bert", "vit", "llama"])
def test_the_head_alone_trains(kind):
    case = on(kind, "linear_probe")
    model = case.model()
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    with attach(model, LinearProbe()) as handle:
        paths = {path for path, _ in handle.trainable()}
        assert paths == {path for path in before if path.startswith("head.")}
        assert handle.count() == 0 and handle.count_head() == sum(before[p].size for p in paths)
        fit(model, case.batches(classes=3), steps=3, lr=0.1, batch=4, quiet=True)
        moved = {path for path, p in model.named_parameters() if not same(p.data, before[path])}
        assert moved == paths


@pytest.mark.parametrize("kind", ["gpt", "bert", "llama"])
def test_a_model_without_a_new_head_is_refused(kind):
    model = CASES["bitfit"].model() if kind == "gpt" else on(kind, "lora").model()
    wanted = r"LinearProbe\(\) trains a new head alone, and this model has none: load_model\(…, "
    with pytest.raises(ValueError, match=wanted + "head='linear'"):
        attach(model, LinearProbe())
    assert not model.handles and all(p.requires_grad for p in model.parameters())


def test_a_head_that_another_method_trains_goes_on_from_there():
    """A head that a LoRA has trained is new still: a probe on top trains it further."""
    case = CASES["linear_probe"]
    model = case.model()
    lower = attach(model, LoRA(r=2))
    fit(model, case.batches(), steps=3, lr=0.1, batch=4, quiet=True)
    trained = model.head.weight.data.copy()
    with pytest.warns(UserWarning, match="goes on top of 'lora'"), attach(model, LinearProbe()):
        assert same(model.head.weight.data, trained)
        fit(model, case.batches(), steps=3, lr=0.1, batch=4, quiet=True)
        assert not same(model.head.weight.data, trained)
    assert same(model.head.weight.data, trained) and not lower.ended
