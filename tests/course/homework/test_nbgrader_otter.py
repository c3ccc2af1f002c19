"""nbgrader and otter themselves release and grade what `minipeft homework notebook` writes.

Each lives in an environment of its own, which pip makes here; MINIPEFT_NOTEBOOK_TOOLS names a
folder with the environments `nbgrader` and `otter` if they are there already.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minipeft.course.homework import bank, notebook
from minipeft.course.homework.assignment import load

pytestmark = pytest.mark.full
TOY = load(Path(__file__).parent / "toy")
CHOICES = {"sign": 1}
NEEDS = {
    "nbgrader": ("nbgrader==0.9.6", "numpy", "safetensors"),
    "otter": ("otter-grader>=7,<8", "ipykernel", "numpy", "safetensors"),
}
IMPORTS = "import safetensors.numpy, ipykernel, {}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """environment(tool): the folder of its programs."""

    def made(tool):
        there = os.environ.get("MINIPEFT_NOTEBOOK_TOOLS")
        folder = Path(there) / tool if there else tmp_path_factory.mktemp("env") / tool
        if not there:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        programs = folder / ("Scripts" if os.name == "nt" else "bin")
        if not there:
            pip = subprocess.run([programs / "python", "-m", "pip", "install", "--quiet",
                                  *NEEDS[tool]], capture_output=True, text=True)  # fmt: skip
            if pip.returncode:
                pytest.skip(f"{tool}: pip does not find it here")
        imports = [programs / "python", "-c", IMPORTS.format(tool)]
        if subprocess.run(imports, capture_output=True).returncode:
            pytest.skip(f"{tool}: it cannot be imported")
        return programs

    return made


def run(programs, folder, *command):
    """Run a tool where only its own programs and kernels are found."""
    quiet = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OPENBLAS_NUM_THREADS": "1"}
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "PYTHON"))}
    done = subprocess.run([programs / command[0], *command[1:]], cwd=folder, text=True,
                          env={**environ, **quiet}, capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def narrow():
    """A wrong derivative that is right on the shapes of the public tests alone."""
    shapes = {ask.inputs["x"].shape for ask in bank.asks(TOY, bank.PUBLIC_SEEDS)
              if ask.case.name == "exp_gradient"}  # fmt: skip
    return f"return y, (lambda g: g * (y if y.shape in {shapes} else 2),)"


def answers(right):
    """The notebook's right answers, by hole."""
    made = json.loads(right.read_text())["cells"]
    return {re.search(r'@fill\("(.*)"\)', text)[1]: re.findall(r"^    (?!#).*", text, re.M)
            for text in map("".join, (c["source"] for c in made)) if "@fill(" in text}  # fmt: skip


def submission(released, right, holes, more=""):
    """The text of a notebook in which these holes are solved: hole -> its body or None."""
    made = json.loads(released.read_text())
    for cell in made["cells"]:
        text = "".join(cell["source"])
        for hole, body in holes.items():
            if f'@fill("{hole}")' in text:
                head, function = text.split("\n")[:2], text.split("\n")[2]
                lines = right[hole] if body is None else [f"    {line}" for line in body]
                cell["source"] = "\n".join([*head, function, *lines, "", more])
    return json.dumps(made)


def test_nbgrader_releases_and_scores(environment, tmp_path):
    programs = environment("nbgrader")
    right, _ = notebook.write(TOY, tmp_path, "nbgrader", "secret", CHOICES)
    run(programs, tmp_path, "nbgrader", "generate_assignment", "toy", "--create")
    released = tmp_path / "release" / "toy" / "handout.ipynb"
    text = released.read_text()
    assert text.count("raise NotImplementedError()") == 2 and "lambda" not in text
    assert "SOLUTION" not in text and "importlib" not in text
    assert not any("hidden" in f.name for f in (tmp_path / "release").rglob("*"))
    good = answers(right)
    wanted = {
        "none": (submission(released, good, {}), 0),
        "full": (submission(released, good, {"toy.1": None, "toy.2": None}), 80),
        "half": (submission(released, good, {"toy.2": None}), 40),
        "narrow": (submission(released, good, {"toy.1": ["y = xp_of(x).exp(x)", narrow()]}), 20),
        "loud": (submission(released, good, {"toy.1": None}, "import sys; print(1, file=sys.stderr)"
                            ), 40),
        "mute": (submission(released, good, {"toy.1": ["return x"]}, "check = print"), 40),
    }  # fmt: skip
    for who, (submitted, _) in wanted.items():
        folder = Path(
            shutil.copytree(tmp_path / "release" / "toy", tmp_path / f"submitted/{who}/toy")
        )
        (folder / "handout.ipynb").write_text(submitted)
    run(programs, tmp_path, "nbgrader", "autograde", "toy", "--create")
    run(programs, tmp_path, "nbgrader", "generate_feedback", "toy")
    run(programs, tmp_path, "nbgrader", "export")
    with (tmp_path / "grades.csv").open() as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert {who: float(row["score"]) for who, row in rows.items()} == {
        who: score for who, (_, score) in wanted.items()
    }
    assert {float(row["max_score"]) for row in rows.values()} == {100}
    feedback = (tmp_path / "feedback/narrow/toy/handout.html").read_text()
    assert "Hidden tests passed for 0 of 40 points" in feedback


def test_otter_assigns_and_scores(environment, tmp_path):
    programs = environment("otter")
    right, _ = notebook.write(TOY, tmp_path, "otter", "secret", CHOICES)
    run(programs, tmp_path, "otter", "assign", "toy/handout.ipynb", "dist")
    student = tmp_path / "dist" / "student"
    released = student / "handout.ipynb"
    text = released.read_text()
    assert "lambda" not in text and "SOLUTION" not in text and "importlib" not in text
    assert not any("hidden" in f.name for f in student.rglob("*"))
    (zip_file,) = (tmp_path / "dist" / "autograder").glob("*.zip")
    good = answers(right)
    wanted = {
        "none": (submission(released, good, {}), 0),
        "full": (submission(released, good, {"toy.1": None, "toy.2": None}), 80),
        "narrow": (submission(released, good, {"toy.1": ["y = xp_of(x).exp(x)", narrow()]}), 20),
    }
    for who, (submitted, score) in wanted.items():
        (tmp_path / who).mkdir()
        (tmp_path / who / "handout.ipynb").write_text(submitted)
        run(programs, tmp_path, "otter", "run", "-a", zip_file, "-o", who, f"{who}/handout.ipynb")
        tests = json.loads((tmp_path / who / "results.json").read_text())["tests"]
        assert sum(test.get("score", 0) for test in tests) == score
        assert sum(test.get("max_score", 0) for test in tests) == 80
