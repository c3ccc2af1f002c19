"""Which parts a pattern names, and the help where it names none."""

import pytest

from minipeft.contract import attach, preview_targets
from minipeft.contract.targets import layer_of, match
from minipeft.methods import LoRA
from minipeft.models import GPT, GPTConfig
from minipeft.nn import Module

CONFIG = GPTConfig(vocab=11, context=8, width=8, layers=2, heads=2)


@pytest.fixture
def model():
    return GPT(CONFIG)


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        ("q_proj", ["blocks.0.attn.q_proj", "blocks.1.attn.q_proj"]),
        (("fc_out", "ln_f"), ["blocks.0.mlp.fc_out", "blocks.1.mlp.fc_out", "ln_f"]),
        (["ln_f", "ln_f"], ["ln_f"]),
        ("blocks.1.attn.v_proj", ["blocks.1.attn.v_proj"]),
        ("1.*.fc_in", ["blocks.1.mlp.fc_in"]),
        ("blocks.*", ["blocks.0", "blocks.1"]),
        (r"re:blocks\.0\..*_proj", [f"blocks.0.attn.{x}_proj" for x in "qkvo"]),
        ("re:.*head", ["head"]),
    ],
)
def test_names_ends_stars_and_expressions(model, targets, paths):
    assert match(model, targets) == paths


def test_all_linear_leaves_the_head_out(model):
    paths = match(model, "all-linear")
    assert len(paths) == 12 and "head" not in paths
    attach(model, LoRA(r=2))
    assert match(model, "all-linear") == paths


def test_all_linear_leaves_out_the_head_of_a_model_inside_a_module(model):
    class Around(Module):
        def __init__(self):
            self.inner = model

    paths = match(Around(), "all-linear")
    assert paths == [f"inner.{path}" for path in match(model, "all-linear")]


@pytest.mark.parametrize("entry", ["proj", "q_pro", "_proj", "re:q_proj", "re:lock", "Q_PROJ"])
def test_a_part_of_a_name_is_no_match(model, entry):
    with pytest.raises(ValueError, match="matches no part"):
        match(model, entry)


def test_every_entry_must_hit(model):
    with pytest.raises(ValueError) as error:
        match(model, ("q_proj", "attn.key_proj"))
    text = str(error.value)
    assert "'attn.key_proj' matches no part of the model. Did you mean 'k_proj'?" in text
    assert "  2 x fc_in      32x8" in text and "  1 x tok        11x8" in text


@pytest.mark.parametrize("targets", [(), []])
def test_no_entry_is_an_error(model, targets):
    with pytest.raises(ValueError, match="targets is empty"):
        match(model, targets)


def test_a_wrong_expression_is_named(model):
    with pytest.raises(ValueError, match=r"'re:\(' is no regular expression"):
        match(model, "re:(")


def test_paths_are_the_same_when_something_is_attached(model):
    paths = [path for path, _ in model.named_modules()]
    handle = attach(model, LoRA(r=2, targets="all-linear"))
    assert [path for path, _ in model.named_modules()] == paths
    assert match(model, "q_proj") == list(handle.wrappers)[::6]


def test_preview(model):
    lines = preview_targets(model, ("fc_in", "blocks.1")).splitlines()
    assert lines == ["blocks.0.mlp.fc_in  32x8", "blocks.1", "blocks.1.mlp.fc_in  32x8"]


def test_layers_are_numbered():
    assert layer_of("blocks.12.attn.q_proj") == 12 and layer_of("blocks.3") == 3
    assert layer_of("ln_f") is None and layer_of("extra.blocks.1") is None


@pytest.mark.parametrize("entry", ["x" * 100_000, "re:" + "(" * 100_000])
def test_an_error_of_a_long_entry_fits_a_screen(model, entry):
    with pytest.raises(ValueError, match="targets: '") as caught:
        match(model, entry)
    assert len(str(caught.value)) < 2000
