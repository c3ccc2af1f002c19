"""results.json is what Gradescope's specification says, at every moment; the zip makes it."""

import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.grading import gradescope
from minipeft.course.grading.grader import ungraded
from minipeft.course.homework import bank as banks
from minipeft.course.homework import tree, verify
from minipeft.course.homework.assignment import load
from minipeft.methods import LoRA
from minipeft.storage.checkpoint import load_model
from tests.course.grading.standin import SCALE, bank

TOY = load(Path(__file__).parents[1] / "homework" / "toy")
VISIBILITY = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}
NUMBER = (int, float)

# docs/specs.md of gradescope/autograder_samples: key -> its type, or its values
TOP = {
    "score": NUMBER, "execution_time": NUMBER, "output": str, "output_format": FORMATS,
    "test_output_format": FORMATS, "test_name_format": FORMATS, "visibility": VISIBILITY,
    "stdout_visibility": VISIBILITY, "extra_data": dict, "tests": list, "leaderboard": list,
}  # fmt: skip
TEST = {
    "score": NUMBER, "max_score": NUMBER, "status": {"passed", "failed"}, "name": str,
    "name_format": FORMATS, "number": str, "output": str, "output_format": FORMATS, "tags": list,
    "visibility": VISIBILITY, "extra_data": dict,
}  # fmt: skip
ROW = {"name": str, "value": (int, float, str), "order": {"asc"}}


def fits(found, schema, needs):
    assert set(needs) <= set(found) <= set(schema), set(found) ^ set(needs)
    for key, value in found.items():
        wanted = schema[key]
        if isinstance(wanted, set):
            assert value in wanted, (key, value)
        else:
            assert isinstance(value, wanted) and not isinstance(value, bool), (key, value)


def valid(text):
    """The results in a file, every field checked against the specification."""
    assert "\r" not in text
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    fits(found, TOP, ["score", "tests"])
    assert found["score"] >= 0 and found.get("execution_time", 0) >= 0
    for test in found["tests"]:
        fits(test, TEST, ["score", "max_score", "status", "name", "number", "visibility"])
        assert 0 <= test["score"] <= test["max_score"]
        assert test["status"] == "passed" or test["score"] == 0
        assert re.fullmatch(r"\d+(\.\d+)*", test["number"])
        assert all(isinstance(tag, str) and tag for tag in test["tags"])
        lines = test["output"].split("\n")
        assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for row in found.get("leaderboard", ()):
        fits(row, ROW, ["name", "value"])
    return found


def report(*won, message=SCALE):
    """A report on the stand-in's bank in which these (case, visible) passed."""
    empty = ungraded(bank(), "Ann", message)
    results = [replace(r, points=r.most, passed=True, message="", seconds=0.1)
               if (r.case, r.visible) in won else r for r in empty.results]  # fmt: skip
    return replace(empty, results=tuple(results), digest="d1", seconds=2.5, notes=("odd file",),
                   missing=("network: no namespaces",))  # fmt: skip


def told(report):
    return valid(json.dumps(gradescope.results(report, bank().homework)))


# -- results.json ---------------------------------------------------------------------------------


def test_every_field_is_there_and_right():
    found = told(report(("one", True), ("one", False), ("two", True)))
    assert found["score"] == 5 + 5 + 10 and found["execution_time"] == 2.5
    assert found["stdout_visibility"] == "hidden"
    assert found["extra_data"] == {
        "digest": "d1", "missing protections": ["network: no namespaces"],
    }  # fmt: skip
    tests = found["tests"]
    assert [t["number"] for t in tests] == ["1.1", "1.2", "2.1", "2.2", "2.3", "2.4"]
    assert [t["max_score"] for t in tests] == [5, 5, 10, 10, 5, 5]
    assert [t["score"] for t in tests] == [5, 5, 10, 0, 0, 0]
    assert tests[0] == {
        "name": "toy.1 the first: one (public)", "name_format": "text", "number": "1.1",
        "score": 5.0, "max_score": 5.0, "status": "passed", "output": "right",
        "output_format": "text", "tags": ["toy", "toy.1", "one", "public"],
        "visibility": "visible",
    }  # fmt: skip
    assert tests[3]["visibility"] == "after_published" and tests[3]["tags"][-1] == "hidden"
    assert tests[3]["status"] == "failed" and tests[3]["output"] == SCALE


def test_it_says_that_hidden_tests_follow():
    every = [(case, True) for case in ("one", "two", "three")]
    text = told(report(*every))["output"]
    assert text.startswith("All public tests passed; 3 hidden tests follow")
    assert (
        "grades are published." in text and "odd file" in text and "namespaces" not in text
    )  # what is missing is for the instructor
    assert told(report(every[0]))["output"].startswith("1 of 3 public tests passed; 3 hidden")


def test_an_output_is_one_screen():
    long = "\r\n".join(["x" * 500, *map(str, range(99)), "\x1b[2J\0"])
    wide = told(report(message="word " * 50))["tests"][0]["output"]
    assert wide.split() == ["word"] * 50 and wide.count("\n") == 2  # nothing is lost
    test = told(report(message=long))["tests"][0]
    assert test["output"].count("\n") <= 21 and test["output"].endswith("…")
    assert (
        "\x1b" not in gradescope.screen("a\x1b[2Jb\0\x07") and gradescope.screen("é\n2") == "é\n2"
    )


# -- autograder.zip -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy():
    return banks.make(TOY, "secret", TOY.choices("2"))


@pytest.fixture(scope="module")
def packed(toy):
    return gradescope.autograder(toy)


def answer(folder, *solved, zipped=False, text=""):
    """A student's hand-in: the toy's file with some holes filled."""
    sources = tree.reference(TOY, TOY.choices("2"))
    left = [hole for hole in TOY.holes if hole.id not in solved]
    name = "minipeft/engine/ops.py"
    file = folder / name
    file.parent.mkdir(parents=True)
    file.write_text(tree.holed(sources, left)[name] + text)
    if zipped:
        with zipfile.ZipFile(folder / "work.zip", "w") as out:
            out.write(file, f"toy/{name}")
        shutil.rmtree(folder / "minipeft")


@pytest.fixture
def root():
    """An empty folder that any user may enter, as /autograder is."""
    folder = Path(tempfile.mkdtemp(prefix="autograder-"))
    folder.chmod(0o755)
    (folder / "submission").mkdir()
    yield folder
    shutil.rmtree(folder)


def unzip(data, root):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for entry in file.infolist():
            path = Path(file.extract(entry, root / "source"))
            path.chmod(entry.external_attr >> 16 & 0o777)


def open_python(root):
    """ROOT/venv as setup.sh makes it, of a Python that every user may run: a copy if need be."""
    base, version = Path(sys.base_prefix), f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if not all(p.stat().st_mode & stat.S_IXOTH for p in (base, *base.parents)):
        aside = shutil.ignore_patterns("test", "site-packages", "__pycache__", "config-*")
        shutil.copytree(base / "lib", root / "python" / "lib", symlinks=True, ignore=aside)
        (root / "python" / "bin").mkdir()
        shutil.copy(base / "bin" / version, root / "python" / "bin")
        base = root / "python"
    packages = root / "venv" / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    there = Path(np.__file__).parents[1]
    if not all(p.stat().st_mode & stat.S_IXOTH for p in (there, *there.parents)):
        pytest.skip("posix: NumPy lies where only its owner may read")
    (packages / "there.pth").write_text(str(there))
    (root / "venv" / "bin").mkdir()
    (root / "venv" / "bin" / "python").symlink_to(base / "bin" / version)
    (root / "venv" / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\n")


def autograde(root, user=None, **more):
    """Run run_autograder in an empty folder, as nobody if asked."""
    empty = root / "empty"
    empty.mkdir(exist_ok=True)
    command = [str(root / "source" / "run_autograder")]
    if user is not None:
        for path in (root, *root.rglob("*")):
            os.lchown(path, user, user)
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "AUTOGRADER_ROOT": str(root),
           "AUTOGRADER_PYTHON": sys.executable}  # fmt: skip
    return subprocess.Popen(command, cwd=empty, env=env | more, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def results(root):
    return valid((root / "results" / "results.json").read_text(encoding="utf-8"))


def test_the_zip_is_small_and_always_the_same(toy, packed):
    assert gradescope.autograder(toy) == packed
    assert len(packed) < 1 << 20  # Gradescope takes 768 MB
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        modes = {e.filename: e.external_attr >> 16 for e in file.infolist()}
        assert all(stat.S_ISREG(mode) for mode in modes.values())
        assert {e.date_time for e in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert modes["run_autograder"] & 0o111 == modes["setup.sh"] & 0o111 == 0o111
        pinned = file.read("requirements.txt").decode()
        assert re.fullmatch(r"numpy==[\d.]+\nsafetensors==[\d.]+\n", pinned)
        assert b"requirements.txt" in file.read("setup.sh")
        assert valid(file.read("first.json").decode())["score"] == 0


def test_no_solution_and_no_rubric_is_in_the_zip(packed, root):
    unzip(packed, root)
    assert list(verify.left_over(TOY, root / "source")) == []
    names = {p.relative_to(root / "source").as_posix() for p in (root / "source").rglob("*")}
    assert not any("rubric" in n or "instructor" in n or n.endswith("ops.py") for n in names)
    text = b"\n".join(p.read_bytes() for p in (root / "source").rglob("*") if p.is_file())
    assert b"(1 - y)" not in text.replace(b"the VJP is g y", b"")
    assert b"The cotangent g is missing." in text  # the messages are there


def test_the_homework_comes_back(tmp_path):
    odd = replace(TOY, title='a "title" with \\ and é\n', questions=TOY.questions * 2)
    (tmp_path / "assignment.toml").write_text(gradescope.toml_of(odd), encoding="utf-8")
    back = load(tmp_path)
    assert back.title == odd.title and [q.points for q in back.questions] == [20, 20]
    assert [(h.id, h.at, h.title, h.keep, h.cases) for h in back.holes] == [
        (h.id, h.at, h.title, h.keep, h.cases) for h in TOY.holes
    ]
    assert back.holes[0].mistakes == () and back.holes[0].hints == ()


@pytest.mark.skipif(os.name != "posix", reason="posix: Gradescope runs Linux")
def test_a_submission_is_graded_by_the_zip(packed, root):
    unzip(packed, root)
    answer(root / "submission", "toy.1")
    process = autograde(root)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    found = results(root)
    assert found["score"] == 40 and len(found["tests"]) == 6
    assert {t["status"] for t in found["tests"][:2]} == {"passed"}
    assert {t["output"] for t in found["tests"][2:]} == {"not written yet"}
    assert found["output"].startswith("1 of 3 public tests passed; 3 hidden tests follow")
    assert list((root / "empty").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="posix: Gradescope runs Linux")
@pytest.mark.parametrize("what", ["no python", "hostile", "empty", "killed", "crash"])
def test_a_valid_file_is_left_whatever_happens(packed, root, what):
    unzip(packed, root)
    more = {"AUTOGRADER_PYTHON": "/nowhere/python"} if what == "no python" else {}
    if what == "hostile":
        with zipfile.ZipFile(root / "submission" / "a.zip", "w") as out:
            out.writestr("../../results/results.json", "forged")
    if what == "killed":
        text = "\nimport time\ndef sigmoid(x):\n    time.sleep(60)\n"
        answer(root / "submission", "toy.1", text=text)
    if what == "crash":
        (root / "source" / gradescope.BANK).write_bytes(b"damaged")
    process = autograde(root, **more)
    if what == "killed":
        until = time.monotonic() + 60
        while not (file := root / "results" / "results.json").is_file() or (
            json.loads(file.read_text())["score"] < 40
        ):
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGTERM)  # what a container sends first
    process.communicate(timeout=120)
    found = results(root)
    says = {"hostile": "not opened: ../../results/results.json would lie outside",
            "empty": "not written yet"}  # fmt: skip
    assert found["score"] == (40 if what == "killed" else 0)
    assert says.get(what, gradescope.STOPPED[:40]) in found["tests"][-1]["output"]
    assert len(found["tests"]) == 6


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="posix: Gradescope runs Linux")
@pytest.mark.parametrize("zipped", [False, True])
def test_an_unprivileged_user_in_an_empty_folder_is_enough(packed, root, zipped):
    unzip(packed, root)
    answer(root / "submission", "toy.1", "toy.2", zipped=zipped)
    open_python(root)
    process = autograde(root, user=65534 if os.geteuid() == 0 else None)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    found = results(root)
    if os.geteuid() == 0:
        assert (root / "results" / "results.json").stat().st_uid == 65534
        assert any("user" in missing for missing in found["extra_data"]["missing protections"])
    assert found["score"] == 80 == sum(t["max_score"] for t in found["tests"])
    assert found["output"].startswith("All public tests passed; 3 hidden tests follow")


# -- the leaderboard ------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="posix: Gradescope runs Linux")
def test_an_adapter_is_scored_by_the_zip(root, tmp_path):
    data = gradescope.board_grader(seed=3, n=5)
    assert data == gradescope.board_grader(seed=3, n=5) and len(data) < 8 << 20
    unzip(data, root)
    attach(load_model("tiny-gpt"), LoRA(r=1)).save(root / "submission" / "mine.safetensors")
    open_python(root)
    process = autograde(root, user=65534 if os.geteuid() == 0 else None)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    found = results(root)
    assert found["score"] == 1 and "trained parameters" in found["output"]
    assert [row["order"] for row in found["leaderboard"]] == ["asc", "asc"]
    (root / "submission" / "mine.safetensors").write_bytes(b"no adapter")
    autograde(root).communicate(timeout=120)
    found = results(root)
    assert found["score"] == 0 and "leaderboard" not in found
    assert "mine.safetensors is no adapter of tiny-gpt" in found["tests"][0]["output"]
