"""A run that is killed again and again ends with the same bits, and loses no file."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minipeft.backend import Rng
from minipeft.storage.checkpoint import load_arrays
from tests.killed import PHASES

CHECKOUT = Path(__file__).parents[2]
STEPS = 60

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="posix: there is no SIGKILL here")


def train(state, *kill):
    """Run the script; its exit code."""
    command = [sys.executable, "-m", "tests.killed", str(state), str(STEPS), *map(str, kill)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)


def result(state):
    """What a run leaves: every array, and the losses."""
    arrays, facts = load_arrays(state)
    history = json.loads(facts["history"])
    return {k: a.tobytes() for k, a in arrays.items()}, history["loss"], int(facts["steps"])


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.full)])
def test_a_run_that_is_killed_comes_to_the_same_end(tmp_path, kills):
    whole, state, mark = (tmp_path / n for n in ("whole.safetensors", "state.safetensors", "mark"))
    done = train(whole)
    assert done.returncode == 0, done.stderr
    reached = 0
    for i in range(kills):
        phase = PHASES[i % len(PHASES)]
        mark.unlink(missing_ok=True)
        died = train(state, phase, 2 + i % 3, mark)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert mark.read_text() == phase  # it died where it should
        steps = result(state)[2]  # the file is whole
        assert steps > reached  # and nothing that was written is lost
        reached = steps
    assert reached < STEPS
    done = train(state)
    assert done.returncode == 0, done.stderr
    assert result(state) == result(whole)
    assert {f.name for f in tmp_path.iterdir()} == {whole.name, state.name, mark.name}


@pytest.mark.full
def test_a_run_that_ctrl_c_stops_again_and_again_comes_to_the_same_end(tmp_path):
    """Once or twice, at any moment."""
    whole, state = tmp_path / "whole.safetensors", tmp_path / "state.safetensors"
    rng, reached, stops = Rng(0, "moments"), 0, 0

    def begun(file):
        command = [sys.executable, "-m", "tests.killed", str(file), "200", "ctrl-c"]
        run = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
        run.stdout.readline()
        return run

    run, began = begun(whole), time.monotonic()
    run.communicate(timeout=600)
    took = time.monotonic() - began  # of this machine, now
    assert run.returncode == 0
    while True:
        run = begun(state)
        for most in (took / 4, 0.01)[: 1 + stops % 2]:
            time.sleep(rng.uniform(high=most))
            run.send_signal(signal.SIGINT)
        told = run.communicate(timeout=120)[1]
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGINT and stops < 200, told
        stops += 1
        if state.exists():
            steps = result(state)[2]
            assert steps >= reached
            reached = steps
    assert stops > 2 and result(state) == result(whole)
    assert {f.name for f in tmp_path.iterdir()} == {whole.name, state.name}
