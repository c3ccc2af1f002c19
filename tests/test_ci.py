""".ci/run tells what each of its stages took, and which one failed."""

import re
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci" / "run"


@pytest.mark.parametrize(("last", "code"), [("true", 0), ("false", 1)])
def test_every_stage_is_told_with_its_seconds(last, code):
    script = CI.read_text(encoding="utf-8")
    head = script[
        script.index("scratch=") : script.index("trap end EXIT\n") + len("trap end EXIT\n")
    ]
    stages = f"set -euo pipefail\n{head}step one\nstep 'two, long'\n{last}\nstep three\n"
    done = subprocess.run(["bash", "-c", stages], capture_output=True, text=True)
    told = re.findall(r"^ +\d+s  (.*)$", done.stdout, re.MULTILINE)
    assert done.returncode == code and not done.stderr
    assert told == ["one", "two, long", *(["three"] if code == 0 else []), "in all"]
    assert ("== FAILED: two, long" in done.stdout) is (code == 1)
