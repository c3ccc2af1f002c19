"""Looking at data before training: outputs by part, and a method that measures first."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from minipeft import LoRA, attach, no_grad
from minipeft.backend import xp_of
from minipeft.contract import Method, Wrapper
from minipeft.contract.watching import outputs
from minipeft.engine import Tensor
from minipeft.nn import Parameter, init
from minipeft.training.batches import TaskBatches
from tests.methods.contract import randomize
from tests.tiny import Sounds, gpt


def batches():
    source = TaskBatches(gpt(), Sounds().load("train"))
    return [source.collate(range(i, i + 2)) for i in (0, 2)]


@pytest.mark.parametrize("under", [False, True])
def test_outputs_are_those_of_the_parts(under):
    model = gpt()
    if under:  # what is attached acts
        randomize(attach(model, LoRA(r=2)))
    handles, trains = list(model.handles), [p.requires_grad for p in model.parameters()]
    for batch, seen in outputs(model, batches(), ("blocks.1", "head_out")):
        assert set(seen) == {"blocks.1", "blocks.0.attn.head_out", "blocks.1.attn.head_out"}
        with no_grad():
            y = model(batch.ids, mask=batch.mask).data
            rest = model.ln_f(Tensor(seen["blocks.1"]))
            assert np.allclose(model.head(rest).data, y, 0, 1e-10)
    assert list(model.handles) == handles
    assert [p.requires_grad for p in model.parameters()] == trains
    assert not any(type(part).__name__ == "Watched" for _, part in model.named_modules())


@dataclass(frozen=True)
class Whiten(Method):
    """Each head_out is shifted by minus its mean over the data, which is measured first."""

    name: ClassVar[str] = "whiten"
    compose: ClassVar[str] = "function"

    targets: str | tuple[str, ...] = "head_out"

    def wrap(self, path, module, where):
        return Shift(module, Parameter(init.zeros((where.config.width,), where.like)))

    def measure(self, at: Any, batches):
        means: dict[str, list] = {}
        for batch, seen in outputs(at.model, batches, self.targets):
            for path, y in seen.items():
                means.setdefault(path, []).append(y[batch.mask].mean(0))
        for path, w in at.wrappers.items():
            w.v.data = xp_of(w.v.data).asarray(-np.mean(means[path], axis=0))


class Shift(Wrapper):
    """y = x + v.  Shapes  x (..., C), v (C,)"""

    def __init__(self, base, v):
        super().__init__(base)
        self.v = v

    def forward(self, x):
        return self.base(x) + self.v


def test_a_method_measures_from_its_handle():
    model = gpt()
    handle = attach(model, Whiten())
    handle.measure(batches())
    assert all(np.any(p.data) for _, p in handle.trainable())
    shifted = outputs(model, batches(), "blocks.0.attn.head_out")
    found = [y[batch.mask].mean(0) for batch, seen in shifted for y in seen.values()]
    assert abs(np.mean(found, axis=0)).max() < 1e-12
    handle.detach()
    with pytest.raises(RuntimeError, match="cannot measure"):
        handle.measure(batches())


def test_a_method_that_measures_nothing_says_so():
    with attach(gpt(), LoRA(r=2)) as at, pytest.raises(ValueError, match="'lora' measures nothing"):
        at.measure(batches())
