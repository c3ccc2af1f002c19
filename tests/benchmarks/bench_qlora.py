"""Time and memory of a LoRA step over NF4 weights against the same step over floats.

    python -m tests.benchmarks.bench_qlora [--sizes S M L] [--rounds 5]

Both train LoRA(r=8) on q_proj and v_proj. Over codes, every Linear but the head is quantized
with double quantization, and the float weights have left memory. `SkylakeX` is with
OPENBLAS_CORETYPE=SkylakeX, which makes products faster and look-ups not; it takes part where
`doctor` advises it. Times and memory are as
in bench_step.py, but the peak leaves out the making of the model; bytes of weights are what the
ledger counts.
"""

import argparse
import statistics
import sys

from minipeft.contract import attach
from minipeft.ledger import predict
from minipeft.methods import LoRA, Quantize
from minipeft.methods.quant import codes_of
from minipeft.models import GPT, GPTConfig
from tests.benchmarks.bench_step import Worker, cpu, wider
from tests.benchmarks.sizes import SIZES

FLOATS, CODES = "LoRA", "LoRA over NF4"
TIME, QUANTIZED, WHOLE = 1.2, 0.14, {"S": 0.36, "M": 0.34, "L": 0.41}  # the gates


def shares(size):
    """Bytes of the quantized weights, and of all weights, as shares of those in float32."""
    width, layers, heads, length, _, vocab = SIZES[size]
    config = GPTConfig(vocab=vocab, context=length, width=width, layers=layers, heads=heads)
    model = GPT(config, init="shape")
    at = attach(model, Quantize())
    floats = sum(4 * w.base.weight.size for w in at.wrappers.values())
    packed = sum(w.nbytes for w in codes_of(at).values())
    whole = 4 * at.total
    attach(model, LoRA())
    assert predict(model, batch=1).parameters["total"] == at.total
    return packed / floats, (whole - floats + packed) / whole


def measure(size, rounds, python=sys.executable):
    """Name -> {median, minimum (CPU ms), peak (MiB)}."""
    field = {FLOATS: ("q,v", {}), CODES: ("nf4", {})}
    if wide := wider():
        field |= {f"{name}, SkylakeX": (kind, wide) for name, (kind, _) in field.items()}
    workers = {
        name: Worker(python, "step_minipeft", size, adapter, "steps", variables)
        for name, (adapter, variables) in field.items()
    }
    try:
        for worker in workers.values():
            worker.hear()
        for _ in range(rounds):
            for worker in workers.values():
                worker.turn()
    finally:
        for worker in workers.values():
            worker.end()
    return {
        name: {"median": 1e3 * statistics.median(w.cpu), "minimum": 1e3 * min(w.cpu),
               "peak": w.peak}
        for name, w in workers.items()
    }  # fmt: skip


def table(size, rows):
    """The rows as text, each pair with its ratio."""
    quantized, whole = shares(size)
    lines = [f"{size:24} {'CPU ms':>8} {'minimum':>8} {'MiB':>7}   share of {FLOATS}"]
    names = list(rows)
    for i, name in enumerate(names):
        row, base = rows[name], rows[names[i - i % 2]]
        line = f"{name:24} {row['median']:8.1f} {row['minimum']:8.1f} {row['peak']:7.1f}"
        if i % 2:
            line += "   time {:.2f} ({:.2f})  memory {:.2f}".format(
                *(row[k] / base[k] for k in ("median", "minimum", "peak"))
            )
        lines.append(line)
    lines.append(f"bytes: {quantized:.3f} of the quantized weights, {whole:.3f} of all weights")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["S", "M"], choices=["S", "M", "L"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("processor:", *cpu(), flush=True)
    for size in args.sizes:
        print(table(size, measure(size, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
