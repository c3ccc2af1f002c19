"""A homework for an engine of the student's own: the same tests, and adapters without minipeft."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from minipeft.course.homework import cut, tree
from minipeft.course.homework.assignment import Assignment

LARGEST = 1 << 20  # bytes of a file that is taken
FILES, BYTES = 300, 8 << 20  # of a submission
NOT_TAKEN = {"minipeft", "tests", "homework.py", "__pycache__"}
COMPILED = {".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib"}

ADAPTERS = '''\
"""How the tests call your engine: arrays in, arrays out. The docstrings say what to return."""
'''
README = """\
# {name}: {title}, with an engine of your own

This folder holds no library: you write the engine, in files of any names, with NumPy and Python's
own modules. `adapters.py` is the only door between the tests and your code. Each function there
gets arrays and returns a dict of arrays, as its docstring says, and raises NotImplementedError
until you call your code in it. `handout.ipynb` has the equations and says how you are graded; where
it names a function of minipeft, yours stands.{conventions}

In this order:

{holes}

```
uv run python homework.py                  # all public tests: what is done, what is wrong and why
uv run python homework.py {first}            # those of one step
uv run python homework.py --hint {first}     # a hint; the next call gives the next one
uv run pytest                              # the same tests under pytest
```

With pip: `python -m pip install {install} pytest`, then the same commands without `uv run`.

Hand in the whole folder. Grading runs your adapters.py on other inputs, of other shapes. It takes
all of your files but a folder `minipeft`, `tests` and compiled code, up to 1 MB each.
"""


def stubs(homework: Assignment, sources: Mapping[str, str]) -> tree.Sources:
    """The adapters alone, emptied: signatures and docstrings.

    sources  the class's, which have the adapters
    """
    text = sources[tree.ADAPTERS]
    parts = [ADAPTERS]
    for hole, case in homework.cases():
        place = cut.locate(text, case.name)
        head = "\n".join(text.splitlines()[place.first : place.start])
        raises = f"raise NotImplementedError({f'{hole.id}: {hole.title}'!r})"
        parts.append(f"\n\n{head}\n    {cut.HERE}\n    {raises}\n")
    made = "".join(parts)
    ast.parse(made)
    return {tree.ADAPTERS: made}


def write(
    homework: Assignment, where: str | Path, public: Mapping[str, bytes], choices: Mapping[str, int]
) -> list[str]:
    """Write the project of a student who brings an engine, as tree.write_student does."""
    needs = ["numpy>=2.0", "safetensors>=0.5"]
    told = {"name": homework.name, "title": homework.title}
    says = [f"- {name}: {text}" for name, text in homework.says(choices).items()]
    holes = [f"- {hole.id} {hole.title} ({hole.points:g} points): "
             + ", ".join(f"`{case.name}`" for case in hole.cases)
             for hole in homework.holes]  # fmt: skip
    texts = {
        **stubs(homework, tree.reference(homework, choices)),
        "pyproject.toml": tree.PYPROJECT.format(
            dependencies=", ".join(f'"{need}"' for need in needs), **told
        ),
        "README.md": README.format(
            **told, first=homework.holes[0].id, holes="\n".join(holes),
            conventions="\n".join(["", "", "Your class's conventions:", "", *says] if says else []),
            install=" ".join(f'"{need}"' for need in needs),
        ),
    }  # fmt: skip
    return tree.lay(homework, where, texts, public, choices)


def all_of(homework: Assignment, submission: Path) -> tuple[dict[str, bytes], list[str]]:
    """The files of a submission, from the folder with its adapters.py on, and what is odd.

    homework  is that of `grading.gather`; its holes' files are not looked for
    """
    doors = [f for f in submission.rglob(tree.ADAPTERS) if f.is_file() and not f.is_symlink()]
    if not doors:
        return {}, [f"{tree.ADAPTERS} was not handed in"]
    root = min(doors, key=lambda f: (len(f.parts), f)).parent
    files: dict[str, bytes] = {}
    notes: list[str] = []
    used = 0
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root)
        if file.is_symlink() or not file.is_file() or any(p.startswith(".") for p in name.parts):
            continue
        if name.parts[0] in NOT_TAKEN or "__pycache__" in name.parts or file.suffix in COMPILED:
            if name.parts[0] == "minipeft" and not any("minipeft/" in note for note in notes):
                notes.append("minipeft/ was not taken: the engine is to be the student's own")
            continue
        size = file.stat().st_size
        used += size
        if size > LARGEST or used > BYTES or len(files) == FILES:
            notes.append(f"{name.as_posix()} was not taken: at most {FILES} files, "
                         f"{LARGEST >> 20} MB each and {BYTES >> 20} MB together")  # fmt: skip
            break
        files[name.as_posix()] = file.read_bytes()
    return files, notes
