"""The tests can fail: each kept mutant of the package breaks the one test file that it names.

The files of mutants/ hold them, an area each: a file, a text that stands in it once, what it is
replaced by, and the test file that must fail. They are applied, one at a time, to a copy of the
checkout.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
MUTANTS = [
    mutant
    for file in sorted((CHECKOUT / "tests/mutants").glob("*.toml"))
    for mutant in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]
]
TESTS = sorted({mutant["test"] for mutant in MUTANTS})
NAMES = [mutant["name"] for mutant in MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_a_mutant_still_fits_the_code(mutant):
    text = (CHECKOUT / mutant["file"]).read_text(encoding="utf-8")
    assert text.count(mutant["old"]) == 1
    assert mutant["old"] != mutant["new"] and (CHECKOUT / mutant["test"]).is_file()


def test_names_are_different():
    assert len(set(NAMES)) == len(NAMES) >= 12


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package and its tests, without what they leave behind."""
    root = tmp_path_factory.mktemp("mutants")
    for name in ("minipeft", "tests"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", root)
    for name in ("data", "lectures"):
        (root / name).symlink_to(CHECKOUT / name)
    return root


def outcome(root, test):
    """pytest's exit code and output for a test file of the copy."""
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test],
        cwd=root,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.full
@pytest.mark.parametrize("test", TESTS)
def test_the_copy_passes(copy, test):
    code, text = outcome(copy, test)
    assert code == pytest.ExitCode.OK, text


@pytest.mark.full
@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_a_mutant_is_caught(copy, mutant):
    file = copy / mutant["file"]
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(mutant["old"], mutant["new"]), encoding="utf-8")
    try:
        code, text = outcome(copy, mutant["test"])
    finally:
        file.write_text(whole, encoding="utf-8")
    assert code == pytest.ExitCode.TESTS_FAILED, text
