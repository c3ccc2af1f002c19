"""The tree keeps its rules: who imports whom, what `import minipeft` loads, what is public."""

import ast
import importlib
import re
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
    "checks": "backend",
    "display": "",
    # the student's wing
    "engine": "backend checks display",
    "nn": "backend checks display engine",
    "models": "backend checks engine nn",
    "storage": "backend checks display engine nn models",
    "contract": "backend checks display engine nn storage",
    "methods": "backend checks display engine nn storage contract",
    "generation": "backend checks engine nn models tasks",
    "training": "backend checks display engine nn models storage contract generation tasks",
    # the world's wing
    "world": "backend checks",
    "tasks": "backend checks storage world",
    "corpus": "backend checks display engine models storage training world tasks",
    # the course's wing
    "ledger": "backend checks display engine nn models storage contract methods training",
    "course": "backend checks display engine nn models storage contract methods generation "
    "training world tasks corpus ledger",
}  # cli, __init__ and __main__ stand on top and may import everything; experiments is a command


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


def test_no_module_has_the_name_of_a_public_function():
    stems = {file.stem for file in PACKAGE.rglob("*.py")}
    assert not stems & set(minipeft.PUBLIC)


def test_the_package_has_few_entries():
    there = {p.name for p in PACKAGE.iterdir()} - {"data", "__pycache__"}
    assert len(there) <= 20, sorted(there)


@pytest.mark.parametrize("old", minipeft.MOVED)
def test_an_old_module_says_where_it_is_now(old):
    with pytest.raises(ModuleNotFoundError, match=rf"minipeft.{old} has moved: import from (\S+)"):
        importlib.import_module(f"minipeft.{old}")
    for new in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", minipeft.MOVED[old]):
        importlib.import_module(f"minipeft.{new.removeprefix('minipeft.')}")


def test_what_was_in_experiments_says_where_it_is_now():
    for name in ("results", "EXPERIMENTS", "lora"):
        with pytest.raises(ImportError, match=f"from minipeft.course.experiments import {name}"):
            exec(f"from minipeft.experiments import {name}")  # noqa: S102
        exec(f"from minipeft.course.experiments import {name}")  # noqa: S102
    with pytest.raises(ModuleNotFoundError, match="No module named 'minipeft.experiments.lora_x'"):
        importlib.import_module("minipeft.experiments.lora_x")


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def test_versions_agree(pyproject):
    assert pyproject["project"]["version"] == minipeft.__version__


def test_the_group_dev_is_the_extra_test(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    assert pyproject["dependency-groups"]["dev"] == extras["test"]
