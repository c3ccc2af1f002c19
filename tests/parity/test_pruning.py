"""Masks against torch's pruning, and movement's surrogate against a torch function of its own."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, fused
from minipeft.methods import Magnitude, Movement
from minipeft.training.optim import AdamW
from tests.methods.contract import randomize
from tests.methods.test_subspace import MLP

WIDTHS = (12, 10, 5)  # whose shares come out even: torch rounds what goes, we what stays
X, LABELS = Rng(1).normal((20, 12)), Rng(2).integers(0, 5, 20)


def twins(torch):
    """Our net, and torch's with the same weights."""
    ours = MLP(*WIDTHS)
    theirs = torch.nn.Sequential(torch.nn.Linear(12, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
    theirs.double()
    with torch.no_grad():
        for p, (_, q) in zip(theirs.parameters(), ours.named_parameters(), strict=True):
            p.copy_(torch.from_numpy(q.data))
    return ours, theirs


@pytest.mark.parametrize("s", [0.3, 0.5, 0.9])
def test_one_shot_masks(torch, s):
    from torch.nn.utils import prune

    for scope in ("layer", "global"):
        ours, theirs = twins(torch)
        handle = attach(ours, Magnitude(s=s, scope=scope, targets="all-linear"))
        layers = [(theirs[0], "weight"), (theirs[2], "weight")]
        if scope == "global":
            prune.global_unstructured(layers, prune.L1Unstructured, amount=s)
        else:
            for layer, name in layers:
                prune.l1_unstructured(layer, name, amount=s)
        for (layer, _), w in zip(layers, handle.wrappers.values(), strict=True):
            assert (layer.weight_mask.numpy() == w.mask).all()


def test_training_under_a_mask(torch):
    """Adam with decoupled decay on masked weights: what is left goes the same way."""
    from torch.nn.utils import prune

    ours, theirs = twins(torch)
    handle = attach(ours, Magnitude(s=0.6, targets="all-linear"))
    for layer in (theirs[0], theirs[2]):
        prune.l1_unstructured(layer, "weight", amount=0.6)
    opt = AdamW(list(handle.trainable()), 0.02, decay=0.0)
    other = torch.optim.AdamW(theirs.parameters(), 0.02, weight_decay=0.0)
    for step in range(8):
        fused.cross_entropy(ours(Tensor(X)), LABELS).backward()
        opt.step()
        handle.after_step(step, 8)
        other.zero_grad()
        torch.nn.functional.cross_entropy(
            theirs(torch.from_numpy(X)), torch.from_numpy(LABELS)
        ).backward()
        other.step()
    y = theirs(torch.from_numpy(X)).detach().numpy()
    assert np.abs(ours(Tensor(X)).data - y).max() < 1e-12


@pytest.mark.parametrize("v", [0.2, 0.7])
def test_the_surrogate_of_movement(torch, v):
    """As the authors have it: a function whose forward is the top-v mask, backward the identity."""

    class TopV(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores):
            mask = torch.zeros_like(scores).flatten()
            mask[scores.flatten().argsort(descending=True)[: round(v * scores.numel())]] = 1
            return mask.view_as(scores)

        @staticmethod
        def backward(ctx, g):
            return g

    ours, _ = twins(torch)
    handle = attach(ours, Movement(v=v, targets="all-linear"))
    randomize(handle)
    handle.after_step(9, 10)
    fused.cross_entropy(ours(Tensor(X)), LABELS).backward()
    leaves = {path: torch.tensor(p.data, requires_grad=True) for path, p in handle.trainable()}
    h = torch.from_numpy(X)
    for name in ("fc0", "fc1"):
        weight = leaves[f"{name}.W"] * TopV.apply(leaves[f"{name}.S"])
        h = torch.nn.functional.linear(h, weight, leaves[f"{name}.b"])
        h = torch.relu(h) if name == "fc0" else h
    torch.nn.functional.cross_entropy(h, torch.from_numpy(LABELS)).backward()
    for path, p in handle.trainable():
        g = leaves[path].grad.numpy()
        assert np.abs(p.grad - g).max() < 1e-13 and np.any(g), path
