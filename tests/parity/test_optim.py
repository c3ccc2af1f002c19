"""Trajectories of the optimizers against torch's, ten steps in float64."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import fused
from minipeft.nn import Parameter
from minipeft.training.optim import SGD, AdamW, clip_gradients

X = Rng(0).normal((20, 6))
LABELS = Rng(1).integers(0, 4, (20,))
START = {"w": Rng(2).normal((4, 6)), "b": Rng(3).normal((4,))}


def trajectory(optimizer, lrs, clip=None, **settings):
    """w and b after each step of ours."""
    params = {name: Parameter(array.copy()) for name, array in START.items()}
    opt = optimizer(list(params.items()), lr=lrs[0], **settings)
    steps = []
    for lr in lrs:
        fused.cross_entropy(fused.linear(X, params["w"], params["b"]), LABELS).backward()
        if clip:
            clip_gradients(opt.params, clip)
        opt.step(lr)
        steps.append(np.concatenate([p.data.ravel() for p in params.values()]))
    return np.stack(steps)


def torch_trajectory(torch, optimizer, lrs, decay, clip=None, **settings):
    """The same of torch, where decay is set for the matrix alone."""
    w, b = (torch.tensor(array, requires_grad=True) for array in START.values())
    groups = [{"params": [w], "weight_decay": decay}, {"params": [b], "weight_decay": 0.0}]
    opt = optimizer(groups, lr=lrs[0], **settings)
    x, labels, steps = torch.from_numpy(X), torch.from_numpy(LABELS), []
    for lr in lrs:
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, w, b), labels)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_([w, b], clip)
        for group in opt.param_groups:
            group["lr"] = lr
        opt.step()
        steps.append(np.concatenate([w.detach().numpy().ravel(), b.detach().numpy().ravel()]))
    return np.stack(steps)


CONSTANT = [0.05] * 10
FALLING = [0.05 * (10 - i) / 10 for i in range(10)]


@pytest.mark.parametrize("lrs", [CONSTANT, FALLING])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw(torch, lrs, decay):
    settings = {"betas": (0.8, 0.95), "eps": 1e-3}
    ours = trajectory(AdamW, lrs, decay=decay, **settings)
    theirs = torch_trajectory(torch, torch.optim.AdamW, lrs, decay, **settings)
    assert np.abs(ours - theirs).max() < 1e-12
    assert np.abs(ours[-1] - ours[0]).max() > 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd(torch, momentum, decay):
    ours = trajectory(SGD, FALLING, momentum=momentum, decay=decay)
    theirs = torch_trajectory(torch, torch.optim.SGD, FALLING, decay, momentum=momentum)
    assert np.abs(ours - theirs).max() < 1e-12
    assert np.abs(ours[-1] - ours[0]).max() > 0.01


def test_defaults_are_torch_s(torch):
    ours = trajectory(AdamW, CONSTANT)
    assert np.abs(ours - torch_trajectory(torch, torch.optim.AdamW, CONSTANT, 0.01)).max() < 1e-12


def test_clipping(torch):
    ours = trajectory(SGD, CONSTANT, clip=0.1)
    theirs = torch_trajectory(torch, torch.optim.SGD, CONSTANT, 0.0, clip=0.1)
    assert np.abs(ours - theirs).max() < 1e-6  # torch divides by norm + 1e-6
    assert np.abs(ours - trajectory(SGD, CONSTANT)).max() > 1e-3
