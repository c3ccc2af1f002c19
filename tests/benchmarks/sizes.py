"""What both sides of the benchmark share: sizes, weights, tokens, and the measuring of a step.

A worker runs training steps without end. Before each it calls `Pace.begin`, which notes the
process CPU time, and after a round tells the parent what the steps cost and waits for its turn.
"""

import gc
import json
import os
import sys
import time
import zlib

import numpy as np

SIZES = {  # width, layers, heads, tokens, batch, vocabulary
    "S": (128, 4, 4, 64, 16, 2048),
    "M": (384, 6, 6, 128, 8, 8192),
    "L": (768, 12, 12, 128, 2, 50257),
    "warm-up": (32, 1, 2, 8, 2, 64),
}
ROUND = {"S": 20, "M": 6, "L": 3, "warm-up": 1}  # steps in a round
R, ALPHA, LR, CLIP = 8, 16, 1e-3, 1.0


def weights(name, shape):
    """The array of a name in a GPT-2 or PEFT file: every worker draws the same."""
    if name.endswith("bias") or "lora_B" in name:
        return np.zeros(shape, np.float32)
    if "ln_" in name:
        return np.ones(shape, np.float32)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    array = rng.standard_normal(shape, np.float32)
    array *= np.float32(0.02)  # in place: what is drawn is not to be the peak
    return array


def tokens(size):
    """One batch: inputs and what follows each.  -> (B, T), (B, T)"""
    *_, length, batch, vocab = SIZES[size]
    rows = np.random.default_rng(0).integers(0, vocab, (batch, length + 1))
    return rows[:, :-1], rows[:, 1:]


def resident(field):
    """A field of /proc/self/status, in MiB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


PARENT = os.fdopen(os.dup(1), "w")  # what libraries print on stdout goes to stderr
os.dup2(2, 1)


def tell(what):
    """A line of JSON to the parent."""
    print(json.dumps(what), file=PARENT, flush=True)


def forget_peak():
    """Let the peak start again from what is resident now."""
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


class Pace:
    """Times steps, and takes turns with the other workers.

    Memory is the peak since the constructor, or since the first step unless `whole`, over what
    was resident in the constructor: it is called after imports and one small step, which loads
    what libraries load late.
    """

    def __init__(self, size, whole=True):
        forget_peak()
        self.base, self.round, self.whole = resident("VmRSS"), ROUND[size], whole
        self.cpu, self.wall = [], []

    def begin(self):
        """Call it before each step."""
        if not (self.whole or self.cpu):
            forget_peak()  # of what made the model
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())
        if len(self.cpu) <= self.round:
            return
        told = {
            "cpu": np.diff(self.cpu).tolist(),
            "wall": np.diff(self.wall).tolist(),
            "peak": resident("VmHWM") - self.base,
        }
        tell(told)
        if not sys.stdin.readline().strip():
            sys.exit()
        self.cpu, self.wall = [time.process_time()], [time.perf_counter()]


def work(run, size, adapter, task):
    """What a worker does: tell the first losses, or run steps in turn with the others.

    task  "losses", "time", or "steps", whose memory leaves out the making of the model
    """
    if task == "losses":
        tell(run(size, adapter, 5))
    else:
        run("warm-up", adapter, 2)
        run(size, adapter, 10**9, Pace(size, whole=task == "time"))
