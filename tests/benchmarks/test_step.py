"""The gate of bench_step.py: run with  pytest -m benchmark tests/benchmarks

MINIPEFT_TORCH_PYTHON names a Python with torch, transformers and peft; this one unless set.
"""

import os
import subprocess
import sys

import pytest

from tests.benchmarks.bench_step import (
    ELSEWHERE,
    MEMORY,
    OURS,
    SAME,
    TIME,
    TORCH,
    cpu,
    measure,
    table,
)


@pytest.fixture(scope="module")
def torch_python():
    python = os.environ.get("MINIPEFT_TORCH_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import torch, transformers, peft"], capture_output=True)
    if found.returncode:
        pytest.skip("parity: torch, transformers and peft are not installed")
    return python


@pytest.mark.benchmark
@pytest.mark.parametrize("size", MEMORY)
def test_a_lora_step_costs_no_more_than_with_pytorch(size, torch_python, capsys):
    rows, worst = measure(size, 3, torch=torch_python, names=(OURS, SAME, TORCH))
    with capsys.disabled():
        print("\nprocessor:", *cpu(), "\n" + table(size, rows, worst))
    time = TIME.get(cpu()[0], ELSEWHERE)
    for name in (OURS, SAME):
        assert rows[name]["median"] <= time * rows[TORCH]["median"]
        assert rows[name]["minimum"] <= time * rows[TORCH]["minimum"]
        assert rows[name]["peak"] <= MEMORY[size] * rows[TORCH]["peak"]
