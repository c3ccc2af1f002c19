"""The gate of bench_cores.py: run with  pytest -m benchmark tests/benchmarks"""

import pytest

from minipeft.course.diagnosis import cores
from tests.benchmarks.bench_cores import COMMANDS, RATIO, measure


@pytest.mark.benchmark
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_at_most_twice_the_time_on_busy_cores(name):
    if cores() < 2:
        pytest.skip("posix: with one core there is no other")
    quiet, busy = measure(COMMANDS[name], 3)
    assert busy <= RATIO * quiet
