"""A worker: this project's LoRA steps, as `fit` runs them."""

import sys

from minipeft.contract import attach
from minipeft.methods import LoRA, Quantize
from minipeft.methods.quant import page_out
from minipeft.models import GPT, GPTConfig
from minipeft.training.batches import Batch
from minipeft.training.loop import fit
from minipeft.training.optim import Schedule
from tests.benchmarks.sizes import ALPHA, CLIP, LR, SIZES, R, tokens, weights, work
from tests.golden import gpt2_shapes, lora_shapes, our_lora, ours

QKV = ("q_proj", "k_proj", "v_proj")
METHODS = {
    "q,v": LoRA(r=R, alpha=ALPHA),
    "c_attn": LoRA(r=R, alpha=ALPHA, targets=QKV, fused=QKV),  # the very function of PEFT's
    "nf4": LoRA(r=R, alpha=ALPHA),  # over codes
}


class Same:
    """The same batch at every step."""

    def __init__(self, size, pace):
        ids, labels = tokens(size)
        self.data, self.pace = Batch(ids, labels, ids >= 0), pace

    def batch(self, step, size, seed):
        if self.pace:
            self.pace.begin()
        return self.data


def run(size, adapter, steps, pace=None):
    """Build the model and train it; returns the losses."""
    width, layers, heads, length, _, vocab = SIZES[size]
    config = GPTConfig(vocab=vocab, context=length, width=width, layers=layers, heads=heads)
    model = GPT(config, init="shape")
    for name, shape in gpt2_shapes(config).items():  # one by one, as the others have it
        model.load_state_dict(ours({name: weights(name, shape)}), strict=False)
    if adapter == "nf4":
        page_out(attach(model, Quantize()))
    handle = attach(model, METHODS[adapter])
    if adapter == "c_attn":
        shapes = lora_shapes(config, ["attn.c_attn"], R)
        start = our_lora({n: weights(n, s) for n, s in shapes.items()})
        for path, p in handle.trainable():
            p.data = start[path]
    return fit(
        model, Same(size, pace), steps=steps, lr=LR, clip=CLIP, decay=0.01,
        schedule=Schedule("constant", 0.0), quiet=True,
    ).loss  # fmt: skip


if __name__ == "__main__":
    work(run, *sys.argv[1:])
