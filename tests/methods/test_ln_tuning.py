"""LN tuning: the norms of every model, and nothing else."""

import pytest

from minipeft.contract import attach
from minipeft.methods import LNTuning
from minipeft.models import OUTLINES, outline
from tests.methods.contract import CASES, on

NORMS = {
    "gpt": {"weight", "bias"}, "bert": {"weight", "bias"}, "vit": {"weight", "bias"},
    "llama": {"weight"},
}  # fmt: skip


@pytest.mark.parametrize("kind", NORMS)
def test_it_trains_every_norm_and_nothing_else(kind):
    model = on(kind, "ln_tuning").model()
    norms = {path for path, part in model.named_modules() if type(part).__name__.endswith("Norm")}
    assert len(norms) >= 5
    with attach(model, LNTuning()) as handle:
        paths = {path for path, _ in handle.trainable()} - handle.head
    assert paths == {f"{norm}.{name}" for norm in norms for name in NORMS[kind]}


def test_a_norm_by_another_name_and_a_name_that_begins_alike():
    """DeBERTa's norms stand behind the parts that they are of."""
    assert "deberta-xxl" in OUTLINES
    with attach(outline("deberta-xxl"), LNTuning()) as handle:
        parts = {path.rpartition(".")[0] for path, _ in handle.trainable()}
    assert {"emb_ln", "relative_ln", "conv_ln", "blocks.47.ln_2"} <= parts
    assert len(parts) == 3 + 2 * 48
    select = LNTuning().select
    where = CASES["ln_tuning"].attached()[1].where("ln_f.weight")
    assert select("ln_f.weight", None, where) and not select("lnear.weight", None, where)
