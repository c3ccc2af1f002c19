"""How large the rooms are, that no import goes in a circle, and that nobody reaches into a room."""

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

import pytest

import minipeft

PACKAGE = Path(minipeft.__file__).parent
CHECKOUT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
SKIPPED = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER, tokenize.ENCODING,
}  # fmt: skip


# --- the imports -------------------------------------------------------------------------------


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file):
    """(module, name or None) of every import of minipeft in a file, wherever it stands."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((a.name, None) for a in node.names if a.name.startswith("minipeft."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minipeft"):
            assert not node.level, f"{file} imports by a relative path"
            yield from ((node.module, a.name) for a in node.names)


def file_of(module):
    """The file of a module, or None; of a package its __init__.py."""
    path = CHECKOUT.joinpath(*module.split("."))
    found = [f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()]
    return found[0] if found else None


def leads_to(module, name):
    """The file that defines what is imported, through packages that only hand names on."""
    inner = file_of(f"{module}.{name}") if name else None
    if inner:
        return inner
    file = file_of(module)
    if file and file.name == "__init__.py":
        for via, given in imports(file):
            if given == name and via != module:
                return leads_to(via, given)
    return file


def graph():
    found = {}
    for file in FILES:
        if file == PACKAGE / "__init__.py":
            continue
        ends = {leads_to(module, name) for module, name in imports(file)}
        found[file] = {e for e in ends if e and e != PACKAGE / "__init__.py"} - {file}
    return found


def circle(arrows):
    """Files that import each other in a loop, or []."""
    done, path = set(), []

    def look(file):
        if file in path:
            return path[path.index(file) :]
        if file in done:
            return []
        path.append(file)
        for end in sorted(arrows.get(file, ())):
            if found := look(end):
                return found
        path.pop()
        done.add(file)
        return []

    for file in arrows:
        if found := look(file):
            return found
    return []


def test_no_import_goes_in_a_circle():
    arrows = graph()
    assert sum(map(len, arrows.values())) > 500  # the arrows are seen
    names = [str(f.relative_to(PACKAGE)) for f in circle(arrows)]
    assert not names, " -> ".join([*names, names[0]])


def test_a_circle_would_be_seen():
    a, b, c = PACKAGE / "a", PACKAGE / "b", PACKAGE / "c"
    assert circle({a: {b}, b: {c}, c: {b}}) == [b, c]
    assert circle({a: {b, c}, b: {c}, c: set()}) == []


def test_nobody_imports_a_private_name():
    wrong = [
        f"{file.relative_to(PACKAGE)}: from {module} import {name}"
        for file in FILES
        for module, name in imports(file)
        if name and name.startswith("_") and not name.startswith("__")
    ]
    for file in FILES:  # nor reaches one through its module: ops._cast
        modules = {name for module, name in imports(file) if name and file_of(f"{module}.{name}")}
        wrong += [
            f"{file.relative_to(PACKAGE)}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree(file))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and node.attr.startswith("_") and not node.attr.startswith("__")
        ]  # fmt: skip
    assert not wrong, "\n".join(wrong)


# --- sizes -------------------------------------------------------------------------------------


def code_lines(file):
    """Lines that hold code: no docstrings, comments and blank lines."""
    docs = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            docs |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    text = io.StringIO(file.read_text(encoding="utf-8"))
    for token in tokenize.generate_tokens(text.readline):
        if token.type not in SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docs)


def files_of(*rooms):
    for room in rooms:
        path = PACKAGE / room
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


CORE = (  # what a student reads from top to bottom
    *(f"engine/{name}.py" for name in ("op", "tensor", "operators", "ops", "fused", "check")),
    *(f"nn/{name}.py" for name in ("module", "init", "layers", "attention", "transformer")),
    "nn/start.py", "models/gpt.py",
    *(f"contract/{name}.py" for name in ("method", "targets", "attached", "handle", "merging")),
    "contract/file.py", "contract/report.py", "methods/lora.py",
    *(f"training/{name}.py" for name in ("loop", "step", "optim")),
    *(f"generation/{name}.py" for name in ("sampling", "scoring", "beams")),
)  # fmt: skip
HOMEWORK = ("course/exercises.py", "course/solutions", "course/homework")  # what students type
GRADING = ("course/grading",)  # the process boundary, and a class
READERS = ("tasks/e2e.py", "tasks/mnist.py", "tasks/truthful_qa.py")  # of published sets
ROOMS = {  # what -> (files, those left out, the most lines of code)
    "core path": (CORE, (), 3600),
    "world, tasks, corpus": (("world", "tasks", "corpus"), READERS, 4200),
    "ledger, course": (("ledger", "course"), (*HOMEWORK, *GRADING), 8000),
    "homework": (HOMEWORK, (), 2000),
    "grading": (GRADING, (), 1500),
}
METHOD = 120  # lines of code of a method's file
LONGER = {  # a method's file -> (the most lines, why)
    "adalora.py": (155, "importances, allocation and the penalty are one method"),
    "codes.py": (150, "the codebooks of quantization, no method"),
    "masks.py": (135, "what both pruning methods share"),
    "quant.py": (145, "codes, their merge and their paging"),
    "subspace.py": (190, "three projections, and the bound of a compressed model"),
}


def table():
    """The rooms with their lines of code and all their lines."""
    rooms = {name: [f for f in files_of(*parts) if f not in set(files_of(*out))]
             for name, (parts, out, _) in ROOMS.items()}  # fmt: skip
    for path in sorted(PACKAGE.iterdir()):
        if path.is_dir() and (path / "__init__.py").is_file():
            rooms[path.name] = list(files_of(path.name))
    rooms["whole package"] = FILES
    lines = [f"{'':24}{'code':>8}{'lines':>8}{'bound':>8}"]
    for name, files in rooms.items():
        code = sum(map(code_lines, files))
        all_lines = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files)
        bound = ROOMS[name][2] if name in ROOMS else ""
        lines.append(f"{name:24}{code:8}{all_lines:8}{bound:8}")
    return "\n".join(lines)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_keeps_its_bound(name):
    print("\n" + table())
    parts, out, most = ROOMS[name]
    left_out = set(files_of(*out))
    assert sum(code_lines(f) for f in files_of(*parts) if f not in left_out) <= most


def test_a_method_is_a_page():
    for file in files_of("methods"):
        most, _ = LONGER.get(file.name, (METHOD, ""))
        assert code_lines(file) <= most, f"{file.name} has {code_lines(file)} lines of code"


def test_only_code_is_counted(tmp_path):
    file = tmp_path / "a.py"
    text = ['"""A', "", 'B"""', "", "# c", 'x = """d', "", 'e"""  # f', "", "", "def g():"]
    text += ['    """h"""', "    return (", "        1", "    )", ""]
    file.write_text("\n".join(text))
    assert code_lines(file) == 3 + 1 + 3


def size(*paths):
    return sum(f.stat().st_size for p in paths for f in ([p] if p.is_file() else p.rglob("*"))
               if f.is_file() and "__pycache__" not in f.parts)  # fmt: skip


def test_files_stay_small():
    data = CHECKOUT / "data"
    assert size(data) <= 30e6
    assert size(data, PACKAGE) <= 40e6  # what a wheel holds, before it is packed
    for notebook in (CHECKOUT / "lectures").glob("*.ipynb"):
        assert size(notebook) <= 1e6, notebook.name
