"""Time and memory of a LoRA step: this project against PyTorch with PEFT, on one thread.

    python -m tests.benchmarks.bench_step --torch-python PATH     (an environment with torch,
        transformers and peft; this Python unless told)            [--sizes S M L] [--rounds 5]

A step is forward, backward, clipping and AdamW on a GPT-2, with the loss on every token. LoRA
has r = 8. `minipeft` is LoRA(r=8) on q_proj and v_proj, as `fit` trains it, with no environment
variable set; `minipeft, c_attn` has the very adapter of PEFT's contestant: one A for q, k and v,
so both train the same function from the same values, and their first losses are compared.
`torch + PEFT` is eager PyTorch as installed, with the fused AdamW and PyTorch's own GELU, which
is faster and keeps less than the one that GPT-2's configuration asks for. `tuned` adds what some
users know: glibc's malloc keeps freed memory and, on AMD, MKL takes its fast path. `SkylakeX` is
ours with OPENBLAS_CORETYPE=SkylakeX; it takes part where `doctor` advises that: on a processor
with AVX-512 that OpenBLAS does not use. Elsewhere it would run the same code, or die.

Each contestant has a process of its own; they take turns, round by round. A time is process CPU
time of one step: the median and the minimum over all rounds. Memory is the peak over what was
resident after imports and one small step.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from minipeft.course.diagnosis import CORE_TYPE, blas, blas_advice, cpu_flags

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests.benchmarks."
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
OURS, SAME, WIDE = "minipeft", "minipeft, c_attn", "minipeft, SkylakeX"
TORCH, TUNED = "torch + PEFT", "torch + PEFT, tuned"
TIME, ELSEWHERE = {"AuthenticAMD": 1.0}, 1.15  # the gates, as shares of PyTorch + PEFT's
MEMORY = {"S": 0.70, "M": 0.70, "L": 0.85}


def cpu():
    """(vendor, model) of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine(), platform.processor()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return facts.get("vendor_id", platform.machine()), facts.get("model name", "")


def fast_mkl(folder):
    """A library to preload, so that MKL treats any processor as Intel's; "" without a compiler."""
    source, library = Path(folder) / "fast.c", Path(folder) / "fast.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return str(library)


class Worker:
    """A contestant's process."""

    def __init__(self, python, module, size, adapter, task, variables):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "OPENBLAS_"))}
        env |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | variables
        command = [python, "-m", HERE + module, size, adapter, task]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.cpu, self.wall, self.peak = [], [], 0.0

    def hear(self):
        """The next line of JSON."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker died: {self.process.args}")
        return json.loads(line)

    def turn(self, keep=True):
        """Let it run one round."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        told = self.hear()
        if keep:
            self.cpu += told["cpu"]
            self.wall += told["wall"]
        self.peak = told["peak"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def wider(core=None, flags=None):
    """The variables that give OpenBLAS the kernels it did not see; none where it needs none.

    core, flags  of OpenBLAS and of the processor; None asks this machine
    """
    core = blas()["core"] if core is None else core
    return CORE_TYPE if blas_advice(core, cpu_flags() if flags is None else flags) else {}


def contestants(ours, torch, folder, wide=None):
    """Name -> (python, module, adapter, environment variables)."""
    fast = fast_mkl(folder) if cpu()[0] == "AuthenticAMD" else ""
    tuned = MALLOC | ({"LD_PRELOAD": fast} if fast else {})
    wide = wider() if wide is None else wide
    field = {
        OURS: (ours, "step_minipeft", "q,v", {}),
        SAME: (ours, "step_minipeft", "c_attn", {}),
        TORCH: (torch, "step_torch", "c_attn", {}),
        WIDE: (ours, "step_minipeft", "q,v", wide),
        TUNED: (torch, "step_torch", "c_attn", tuned),
    }
    return field if wide else {name: who for name, who in field.items() if name != WIDE}


def check(field, size):
    """The losses of the first steps, where both train the same function."""
    told = {}
    for name in (SAME, TORCH):
        python, module, adapter, variables = field[name]
        worker = Worker(python, module, size, adapter, "losses", variables)
        told[name] = worker.hear()
        worker.end()
    worst = max(abs(a - b) / b for a, b in zip(told[SAME], told[TORCH], strict=True))
    if worst > 1e-4:
        raise AssertionError(f"the contestants do not train the same: {told}")
    return worst


def measure(size, rounds, ours=sys.executable, torch=sys.executable, names=None):
    """Name -> {median, minimum (CPU ms), wall, peak (MiB)}, and how far the losses differ."""
    with tempfile.TemporaryDirectory() as folder:
        field = contestants(ours, torch, folder)
        if names is not None:
            field = {n: field[n] for n in names}
        worst = check(field, size) if SAME in field and TORCH in field else None
        workers = {}
        try:
            for name, (python, module, adapter, variables) in field.items():
                workers[name] = Worker(python, module, size, adapter, "time", variables)
                workers[name].hear()  # the first round warms up
            for _ in range(rounds):
                for worker in workers.values():
                    worker.turn()
        finally:
            for worker in workers.values():
                worker.end()
    rows = {
        name: {
            "median": 1e3 * statistics.median(w.cpu),
            "minimum": 1e3 * min(w.cpu),
            "wall": 1e3 * statistics.median(w.wall),
            "peak": w.peak,
        }
        for name, w in workers.items()
    }
    return rows, worst


def table(size, rows, worst):
    """The rows as text, with shares of PyTorch + PEFT's."""
    heads = f"{'CPU ms':>8} {'minimum':>8} {'wall ms':>8} {'MiB':>7}"
    lines = [f"{size:20}  {heads}   share of {TORCH}"]
    base = rows.get(TORCH)
    for name, row in rows.items():
        line = (f"{name:20}  {row['median']:8.1f} {row['minimum']:8.1f} {row['wall']:8.1f} "
                f"{row['peak']:7.1f}")  # fmt: skip
        if base:
            shares = (row[k] / base[k] for k in ("median", "minimum", "peak"))
            line += "   time {:.2f} ({:.2f})  memory {:.2f}".format(*shares)
        lines.append(line)
    if worst is not None:
        lines.append(f"first losses of {SAME!r} and {TORCH!r} differ by {worst:.0e}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--sizes", nargs="+", default=["S", "M"], choices=["S", "M", "L"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("processor:", *cpu(), flush=True)
    for size in args.sizes:
        print(table(size, *measure(size, args.rounds, args.python, args.torch_python)), flush=True)


if __name__ == "__main__":
    main()
