"""A run that is killed again and again ends with the same bits, and loses no file."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minipeft.checkpoint import load_arrays
from tests.killed import PHASES

CHECKOUT = Path(__file__).parent.parent
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
