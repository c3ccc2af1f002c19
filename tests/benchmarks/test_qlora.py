"""The gate of bench_qlora.py: run with  pytest -m benchmark tests/benchmarks"""

import pytest

from tests.benchmarks.bench_qlora import (
    CODES,
    FLOATS,
    QUANTIZED,
    TIME,
    WHOLE,
    measure,
    shares,
    table,
)


@pytest.mark.benchmark
@pytest.mark.parametrize("size", ["S", "M"])
def test_a_step_over_codes_costs_little_time(size, capsys):
    rows = measure(size, 3)
    with capsys.disabled():
        print("\n" + table(size, rows))
    for key in ("median", "minimum"):
        assert rows[CODES][key] <= TIME * rows[FLOATS][key]
    assert rows[CODES]["peak"] < rows[FLOATS]["peak"]


@pytest.mark.parametrize("size", WHOLE)
def test_weights_take_few_bytes(size):
    quantized, whole = shares(size)
    assert quantized <= QUANTIZED and whole <= WHOLE[size]
