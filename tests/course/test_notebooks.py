"""The notebooks keep the form that all lectures share, and their outputs came from their cells."""

import ast
import base64
import hashlib
import importlib
import json
import re
from pathlib import Path

import pytest

from minipeft.course import notebooks
from minipeft.course.exercises import folded

CHECKOUT = Path(__file__).parents[2]
LECTURES = sorted((CHECKOUT / "lectures").glob(notebooks.NAMED))
CELLS, LINES = 35, 25  # code cells of a lecture, and lines of one beside its imports
NOTEBOOK, FIGURE = 1_000_000, 60_000  # bytes
WORDS, TYPED = 4000, 2  # of a lecture, solutions not counted; and cells that the student fills
OLDER = (  # written before lectures had exercises and this bound
    "01_autograd", "02_transformer", "04_topk", "08_lora", "10_quantization",
    "11_intrinsic_dimension", "12_pruning",
)  # fmt: skip
FOUNDATIONS = {  # lectures on what the methods stand on, or of another name than their file
    "01_autograd": "engine/__init__.py",
    "02_transformer": "models/gpt.py",
    "03_finetuning_and_icl": "generation/incontext.py",
    "03b_calibration": "generation/calibration.py",
    "05_adapters": "methods/adapter.py",
    "10_quantization": "methods/quant.py",
    "11_intrinsic_dimension": "methods/subspace.py",
    "12_pruning": "methods/magnitude.py",
    "14_vision": "methods/fact.py",
    "15_unified": "course/method_map.py",
    "13b_editing": "contract/vectors.py",
}
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=LECTURES, ids=lambda file: file.stem)
def lecture(request):
    return request.param


@pytest.fixture
def notebook(lecture):
    return json.loads(lecture.read_text(encoding="utf-8"))


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def body(cell):
    """A cell's source without its imports and blank lines."""
    lines = source(cell).splitlines()
    for node in ast.walk(ast.parse(source(cell))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return [line for line in lines if line.strip()]


def code_hash(notebook):
    """The mark that a run leaves in the notebook's metadata: which code its outputs belong to.

    Where a name is imported from is left out: a file may move.
    """
    return hashlib.sha256(json.dumps([body(c) for c in code(notebook)]).encode()).hexdigest()


def outputs(notebook):
    for cell in code(notebook):
        yield from cell["outputs"]


def test_there_is_a_lecture():
    assert LECTURES, "lectures/ holds no notebook"


def test_format_is_valid_and_cells_have_ids(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids)
    nbformat = pytest.importorskip("nbformat", reason="lectures: nbformat is not installed")
    nbformat.validate(notebook)


def test_headings_are_in_order(notebook):
    levels = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = FENCED.sub("", source(cell))
            levels += [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1, "one H1, at the top"
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), "a level is skipped"


def test_contents_name_every_section(notebook):
    texts = [source(c) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    contents = next(t for t in texts if t.startswith("## Contents"))
    listed = re.findall(r"^(\d+\. .+)$", contents, re.MULTILINE)
    sections = [m for t in texts for m in re.findall(r"^## (\d+\. .+)$", t, re.MULTILINE)]
    assert listed == sections


def test_code_cells_are_few_and_short(notebook):
    cells = code(notebook)
    assert len(cells) <= CELLS
    for cell in cells:
        ast.parse(source(cell))
        assert len(body(cell)) <= LINES, source(cell)[:80]
        assert max(map(len, source(cell).splitlines())) <= 100, source(cell)[:80]


def test_outputs_are_committed_and_belong_to_the_code(notebook):
    counts = [cell["execution_count"] for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "not run from top to bottom, once"
    assert notebook["metadata"]["minipeft"]["code"] == code_hash(notebook), "changed since it ran"
    printed = "".join("".join(o.get("text", "")) for o in outputs(notebook))
    assert "full mode" in printed, "outputs of a fast run are not for readers"


def test_no_error_and_nothing_on_stderr(notebook):
    for output in outputs(notebook):
        assert output["output_type"] != "error", output
        assert output.get("name") != "stderr", output["text"]


def test_sizes_suit_a_reader_on_the_web(lecture, notebook):
    assert lecture.stat().st_size < NOTEBOOK
    figures = [
        o["data"]["image/png"] for o in outputs(notebook) if "image/png" in o.get("data", {})
    ]
    assert len(figures) >= 3
    assert max(len(base64.b64decode(figure)) for figure in figures) <= FIGURE


def test_every_figure_is_told_in_words(notebook):
    figures = sum("image/png" in o.get("data", {}) for o in outputs(notebook))
    texts = "\n".join(source(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    told = [int(n) for n in re.findall(r"^\*Figure (\d+), in words: ", texts, re.MULTILINE)]
    assert told == list(range(1, figures + 1))


def test_last_cell_asserts(notebook):
    last = code(notebook)[-1]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source(last))))


def test_pairs_with_its_file(lecture):
    """08_lora.ipynb belongs to methods/lora.py, whose docstring names the lecture."""
    name = lecture.stem.partition("_")[2]
    file = CHECKOUT / "minipeft" / FOUNDATIONS.get(lecture.stem, f"methods/{name}.py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    assert f"Lecture  {lecture.stem}" in text


def test_readme_lists_every_lecture():
    readme = (CHECKOUT / "lectures" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d\d\w+\.ipynb)\)", readme) == [file.name for file in LECTURES]


def test_a_lecture_is_forty_minutes(lecture, notebook):
    texts = [source(c) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    words = len(" ".join(t for t in texts if not t.startswith("<details>")).split())
    assert words <= WORDS or lecture.stem in OLDER, f"{words} words"


def test_the_student_types_and_finds_the_solution_folded_below(lecture, notebook):
    cells, typed = notebook["cells"], 0
    for i, cell in enumerate(cells):
        for name in re.findall(r"^@exercise\(solutions\.(\w+)\)$", source(cell), re.MULTILINE):
            typed += 1
            hole = source(cell)
            assert "# YOUR CODE" in hole and f"def {name}(" in hole and "assert" in hole, name
            topic = solutions_of(notebook)
            assert source(cells[i + 1]) == folded(getattr(topic, name)), f"{name} is not folded"
    assert typed >= TYPED or lecture.stem in OLDER


def solutions_of(notebook):
    """The module that a lecture imports its solutions from."""
    found = re.search(r"^from minipeft.course.solutions import (\w+) as solutions$",
                      "\n".join(map(source, code(notebook))), re.MULTILINE)  # fmt: skip
    assert found, "no solutions are imported"
    return importlib.import_module(f"minipeft.course.solutions.{found[1]}")
