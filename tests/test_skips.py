"""A skip is counted: CI fails on a reason that is not listed, MINIPEFT_REQUIRE on any of a kind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LISTED, OWN = "parity: no torch", "too lazy"


@pytest.mark.parametrize(
    ("where", "reason", "settings", "failed", "message"),
    [
        ("test", LISTED, {"CI": "true"}, False, LISTED),
        ("test", OWN, {"CI": "true"}, True, f"does not list: {OWN}"),
        ("top", OWN, {"CI": "true"}, True, f"does not list: {OWN}"),
        ("test", OWN, {}, False, f"does not list: {OWN}"),
        ("test", LISTED, {"MINIPEFT_REQUIRE": "data,parity"}, True, "forbids the skip"),
        ("top", LISTED, {"MINIPEFT_REQUIRE": "data,parity"}, True, "forbids the skip"),
        ("top", LISTED, {"MINIPEFT_REQUIRE": "data"}, False, LISTED),
    ],
)
def test_skips(where, reason, settings, failed, message, tmp_path):
    for name in ("conftest.py", "skips.txt"):
        shutil.copy(TESTS / name, tmp_path)
    skip = f"pytest.skip({reason!r}, allow_module_level=True)"
    body = {"test": f"def test_it(): {skip}", "top": skip}[where]
    (tmp_path / "test_it.py").write_text(f"import pytest\n{body}\n")
    (tmp_path / "test_other.py").write_text("def test_passes(): pass\n")
    quiet = {"CI": "", "MINIPEFT_REQUIRE": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "--rootdir", str(tmp_path), str(tmp_path)],
        env={**os.environ, **quiet, **settings},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert message in done.stdout
    assert (done.returncode != 0) == failed
