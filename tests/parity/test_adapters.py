"""Adapters against their equations in torch, in float64: outputs, and gradients by its autograd.

The equations stand here as the papers and the library of adapters have them: h is what enters a
sublayer, f what it gives out, A a bottleneck.
"""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused
from minipeft.methods import Adapter, Parallel
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig

SIZES = {"vocab": 31, "context": 12, "width": 12, "layers": 2, "heads": 3, "mlp": 20}
IDS = Rng(0).integers(0, 31, (3, 9))
HEADS = SIZES["heads"]
CASES = {
    "houlsby": Adapter(r=5),
    "houlsby, swish, norms": Adapter(r=5, act="swish", norms=True),
    "pfeiffer": Adapter(r=5, place="pfeiffer"),
    "lin": Adapter(r=5, place="lin"),
    "dropped": Adapter(r=5, place="pfeiffer", drop=1),
    "parallel": Parallel(r=5),
    "parallel, ln": Parallel(r=5, s=1.0, reads="ln", act="gelu"),
    "parallel, attention": Parallel(r=5, sublayer="attn"),
}


class Equations:
    """A GPT or a BERT with adapters, written out; P holds our arrays by path."""

    def __init__(self, torch, model, method):
        self.torch, self.method, self.post = torch, method, isinstance(model, BERT)
        self.P = {path: torch.tensor(p.data, requires_grad=p.requires_grad)
                  for path, p in model.named_parameters()}  # fmt: skip

    def linear(self, path, x):
        return x @ self.P[f"{path}.weight"].T + self.P[f"{path}.bias"]

    def ln(self, path, x, eps=None):
        w, b = self.P[f"{path}.weight"], self.P[f"{path}.bias"]
        eps = (1e-12 if self.post else 1e-5) if eps is None else eps
        return self.torch.nn.functional.layer_norm(x, w.shape, w, b, eps)

    def gelu(self, x):
        return self.torch.nn.functional.gelu(x, approximate="none" if self.post else "tanh")

    def A(self, path, x):
        """W_up act(W_down x + b_down) + b_up, at most of a norm of x; nothing where none is."""
        m, F = self.method, self.torch.nn.functional
        if f"{path}.adapter.up.weight" not in self.P:
            return 0.0
        acts = {"relu": F.relu, "swish": F.silu, "gelu": lambda x: F.gelu(x, approximate="tanh")}
        act = acts[m.act or {"houlsby": "gelu"}.get(m.place, "relu")]
        if f"{path}.adapter.ln.weight" in self.P:
            x = self.ln(f"{path}.adapter.ln", x, eps=1e-5)
        z = act(self.linear(f"{path}.adapter.down", x))
        return getattr(m, "s", 1.0) * self.linear(f"{path}.adapter.up", z)

    def attn(self, path, x):
        q, k, v = (
            self.linear(f"{path}.{name}_proj", x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in "qkv"
        )
        dot = self.torch.nn.functional.scaled_dot_product_attention
        y = dot(q, k, v, is_causal=not self.post).transpose(1, 2).flatten(2)
        return self.linear(f"{path}.o_proj", y)

    def mlp(self, path, x):
        return self.linear(f"{path}.fc_out", self.gelu(self.linear(f"{path}.fc_in", x)))

    def sublayer(self, block, name, norm, h):
        """What comes behind the residual; in a post-norm block, what enters its norm."""
        part, m = f"{block}.{name}", self.method
        x = h if self.post else self.ln(f"{block}.{norm}", h)
        f = getattr(self, name)(part, x)
        if isinstance(m, Parallel):  # BERT: LN(f + s A(h) + h); GPT: h + f + s A(h), or A(ln(h))
            if m.reads == "ln" or self.post:
                return h + f + self.A(part, x)
            return h + f + self.A(f"{block}.{norm}", h)
        return h + f + self.A(part, f)  # Houlsby; without one at `part`, h + f

    def block(self, path, x):
        x = self.sublayer(path, "attn", "ln_1", x)
        x = self.ln(f"{path}.ln_1", x) if self.post else x
        x = self.sublayer(path, "mlp", "ln_2", x)  # f + h
        if self.post:
            z = self.ln(f"{path}.ln_2", x)
            if self.method.name == "adapter" and self.method.place == "pfeiffer":
                z = self.ln(f"{path}.ln_2", x + self.A(f"{path}.ln_2", z))  # LN(f + A(z) + h)
            x = z
        return x + self.A(path, x)  # Pfeiffer behind a pre-norm block, Lin behind any

    def logits(self, ids):
        P = self.P
        x = P["emb.tok.weight"][ids] + P["emb.pos.weight"][: ids.shape[1]]
        if self.post:
            x = self.ln("emb.ln", x + P["emb.seg.weight"][0])
        for i in range(SIZES["layers"]):
            x = self.block(f"blocks.{i}", x)
        if self.post:
            x = self.ln("mlm.ln", self.gelu(self.linear("mlm.fc", x)))
            return x @ P["emb.tok.weight"].T + P["head.bias"]
        return self.ln("ln_f", x) @ P["emb.tok.weight"].T


@pytest.fixture(params=["gpt", "bert"])
def model(request):
    kind, config = {"gpt": (GPT, GPTConfig), "bert": (BERT, BERTConfig)}[request.param]
    made = kind(config(**SIZES), dtype=np.float64)
    for path, p in made.named_parameters():
        p.data = p.data + 0.3 * Rng(3, path).normal(p.shape)
    return made


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients(torch, model, name):
    handle = attach(model, CASES[name])
    for path, p in handle.trainable():
        p.data = p.data + 0.3 * Rng(5, path).normal(p.shape)
    theirs = Equations(torch, model, CASES[name])
    z = theirs.logits(torch.tensor(IDS))
    loss = torch.nn.functional.cross_entropy(
        z[:, :-1].reshape(-1, 31), torch.tensor(IDS[:, 1:].ravel())
    )
    loss.backward()
    y = model(IDS)
    wanted = z.detach().numpy()
    assert np.abs(y.data - wanted).max() < 1e-10 * np.abs(wanted).max()
    fused.cross_entropy(y[:, :-1], IDS[:, 1:]).backward()
    for path, p in handle.trainable():
        g = theirs.P[path].grad.numpy()
        assert np.abs(g).max() > 1e-6 and np.abs(p.grad - g).max() < 1e-10, path
    handle.detach()
    assert np.abs(model(IDS).data - wanted).max() > 0.01 * np.abs(wanted).max()
