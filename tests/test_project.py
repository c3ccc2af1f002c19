"""The tree keeps its rules: who imports whom, what `import minipeft` loads, what is public."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import minipeft

PACKAGE = Path(minipeft.__file__).parent
CHECKOUT = PACKAGE.parent

LAYERS = {  # a part -> the parts of minipeft that it may import, besides itself
    "backend": "",
    "blas": "",
    "files": "",
    "checks": "backend",
    "homework": "",
    "text": "files",
    "metrics": "",
    "tasks": "backend files",
    "engine": "backend",
    "nn": "backend engine",
    "finite": "backend engine",
    "models": "backend engine nn",
    "paged": "",
    "optim": "backend checks engine nn paged",
    "checkpoint": "backend files text engine nn models",
    "hub": "backend files text engine nn models checkpoint",
    "methods": "backend files engine nn checkpoint paged",
    "batches": "backend",
    "masking": "backend batches",
    "progress": "",
    "fetch": "files progress",
    "generate": "backend batches blas checks engine finite nn",
    "beam": "backend blas checks engine finite generate",
    "viz": "backend engine nn",
    "ledger": "backend engine nn models methods optim paged",
    "inspection": "checkpoint methods nn",
    "hidden": "backend batches engine methods",
    "step": "backend batches engine hidden",
    "resume": "backend blas checkpoint files finite optim progress",
    "train": "backend batches blas checks engine finite nn optim checkpoint generate metrics "
    "progress resume step tasks",
    "pretrain": "backend batches checks engine masking files text checkpoint models progress tasks "
    "train",
    "doctor": "backend blas files text checkpoint",
    "lectures": "blas progress",
    "compare": "backend batches blas engine methods checkpoint doctor generate metrics pretrain "
    "progress tasks train",
}  # cli, experiments, __init__ and __main__ stand on top and may import everything


def imported(file):
    """The parts of minipeft that a file imports, at its top or inside a function."""
    package = file.relative_to(CHECKOUT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("minipeft."):
                yield name.split(".")[1]


@pytest.mark.parametrize("part", LAYERS)
def test_imports_go_down_only(part):
    files = [PACKAGE / f"{part}.py", *(PACKAGE / part).rglob("*.py")]
    for file in filter(Path.exists, files):
        wrong = set(imported(file)) - {part, *LAYERS[part].split()}
        assert not wrong, f"{file.relative_to(CHECKOUT)} may not import {sorted(wrong)}"


def test_every_part_has_its_place():
    top = {"__init__", "__main__", "cli", "experiments", "data", "__pycache__"}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert there - top <= set(LAYERS)


def test_only_the_backend_names_cupy():
    for file in PACKAGE.rglob("*.py"):
        if file.name != "backend.py":
            nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            assert not any(isinstance(n, ast.Name) and n.id in ("cupy", "cp") for n in nodes), file


def run(code):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_numpy_alone():
    loaded = run(
        "import sys; before = set(sys.modules); import minipeft; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    assert set(loaded.split()) - set(sys.stdlib_module_names) <= {"minipeft", "numpy"}


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(AttributeError, match="no attribute 'Lora'; did you mean 'LoRA'"):
        minipeft.Lora  # noqa: B018
    with pytest.raises(AttributeError, match="it has Tensor, no_grad"):
        minipeft.qqq  # noqa: B018


def test_the_public_names_are_there():
    for name, module in minipeft.PUBLIC.items():
        found = getattr(minipeft, name)
        assert found is getattr(sys.modules[module], name)
    assert set(minipeft.PUBLIC) < set(dir(minipeft))


def test_a_function_is_not_hidden_by_its_module():
    code = "import minipeft.generate; import minipeft; print(callable(minipeft.generate))"
    assert run(code) == "True"


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def test_versions_agree(pyproject):
    assert pyproject["project"]["version"] == minipeft.__version__


def test_the_group_dev_is_the_extra_test(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    assert pyproject["dependency-groups"]["dev"] == extras["test"]
