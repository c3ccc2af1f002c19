"""The README's kind of commands on quiet cores, and with all cores but one busy.

    python -m tests.benchmarks.bench_cores [--rounds 3]

No variable sets the number of BLAS threads. Each command runs in a process of its own, quiet and
busy in turn; a busy core runs a loop that never waits. `ratio` is of the shortest wall times.
A program with a thread for each core waits for its slowest one at every product, and its other
threads spin while they wait; with as many as the matrices are worth it takes at most twice the
time, though the system may move it from core to core.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from minipeft.course.diagnosis import cores
from minipeft.engine.blas import THREADS

ROOT = Path(__file__).resolve().parents[2]
RATIO = 2.0  # the gate
COMMANDS = {
    "finetune": ("finetune", "--task", "sentiment", "--steps", "30", "--eval", "100"),
    "generate": ("generate", "The soup was cold."),
}
LOOP = "while True: pass"


def seconds(words):
    """The wall time of a command of minipeft with no number of threads set."""
    env = {k: v for k, v in os.environ.items() if k not in THREADS} | {"PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "minipeft", *words], env=env, cwd=ROOT, check=True,
        capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - began


def measure(words, rounds):
    """The shortest wall times, quiet and busy."""
    quiet, busy = [], []
    for _ in range(rounds):
        quiet.append(seconds(words))
        loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(cores() - 1)]
        try:
            busy.append(seconds(words))
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
    return min(quiet), min(busy)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(
        f"{cores()} cores, {cores() - 1} of them busy\n{'':10} {'quiet s':>8} {'busy s':>8}  ratio"
    )
    for name, words in COMMANDS.items():
        quiet, busy = measure(words, args.rounds)
        print(f"{name:10} {quiet:8.1f} {busy:8.1f}  {busy / quiet:5.2f}", flush=True)


if __name__ == "__main__":
    main()
