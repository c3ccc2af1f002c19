"""A training run that kills itself: python -m tests.killed STATE STEPS [PHASE COUNT MARK].

PHASE is where, COUNT the how-manieth time; the file MARK then says that it was there. With the
phase "ctrl-c" the run waits for a signal and saves no state before.
"""

import os
import signal
import sys
from pathlib import Path

import safetensors.numpy

from minipeft.contract import attach
from minipeft.methods import LoRA
from minipeft.training.loop import fit
from minipeft.training.optim import AdamW
from minipeft.training.resume import Checkpoint
from tests.tiny import Rows, gpt, tokenizer

PHASES = ("step", "save", "before rename", "after rename")


def main(state, steps, phase="", count=0, mark=""):
    """Train, and die on the way if asked to."""
    seen = 0

    def here(name):
        nonlocal seen
        seen += name == phase
        if seen == int(count) > 0:
            Path(mark).write_text(phase)
            os.kill(os.getpid(), signal.SIGKILL)

    step, write, rename = AdamW.step, safetensors.numpy.save_file, os.replace

    def stepping(self, *args):
        step(self, *args)
        here("step")  # the weights have moved; nobody wrote it down

    def writing(arrays, path, metadata):
        write(arrays, path, metadata)
        if phase == "save" and seen + 1 == int(count):
            os.truncate(path, os.path.getsize(path) // 2)
        here("save")  # half of the new file is on the disk

    def renaming(old, new):
        here("before rename")
        rename(old, new)
        here("after rename")

    AdamW.step, safetensors.numpy.save_file, os.replace = stepping, writing, renaming
    print("ready", flush=True)
    model = gpt(dropout=0.1)
    attach(model, LoRA(r=2, dropout=0.1))
    fit(model, Rows(tokenizer().vocab_size), steps=int(steps), lr=0.02, batch=3, quiet=True,
        checkpoint=Checkpoint(state, int(steps) if phase == "ctrl-c" else 1))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
