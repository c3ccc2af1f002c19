"""Your homework's tests: what is done, what is wrong and why, and hints.

    python homework.py                 all tests
    python homework.py hw3.1           those of one hole
    python homework.py --hint hw3.1    a hint; the next call gives the next one

`pytest` runs the same tests. The inputs and the wanted results are in tests/public; adapters.py
says how your code is called. Grading draws other inputs, of other shapes.
"""

from __future__ import annotations

import argparse
import ast
import faulthandler
import importlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

HERE = Path(__file__).resolve().parent
PUBLIC = HERE / "tests" / "public"
if not PUBLIC.is_dir():  # otter has a folder `tests` of its own
    PUBLIC = HERE / "public"
TAKEN = HERE / ".hints.json"  # how many hints were taken
PLAIN = "plain"  # the tensor that holds what is no array, as JSON
SECONDS = 60  # for the tests that a notebook's cell runs
EACH = 30  # seconds of a test on the command line

# -- arrays as bytes ------------------------------------------------------------------------------


def pack(values: dict[str, Any]) -> bytes:
    """A flat dict of arrays, numbers, booleans, strings and lists of them, as bytes.

    Raises  TypeError that names what is none of these
    """
    arrays, plain = {}, {}
    for name, value in values.items():
        if isinstance(value, np.ndarray | np.generic):
            array = np.array(value, order="C")  # a plain one: no subclass, no strides
            if array.dtype.kind not in "fiub":
                raise TypeError(f"{name} is an array of {array.dtype}; give numbers")
            arrays[f"={name}"] = array
        else:
            plain[name] = value
    text = json.dumps(plain).encode()
    return safetensors.numpy.save({**arrays, PLAIN: np.frombuffer(text, np.uint8)})


def unpack(data: bytes) -> dict[str, Any]:
    """What `pack` made bytes of."""
    arrays = safetensors.numpy.load(data)
    plain = json.loads(arrays.pop(PLAIN).tobytes().decode())
    return {**{name[1:]: array for name, array in arrays.items()}, **plain}


# -- right or wrong, and why ----------------------------------------------------------------------


def compare(
    got: Any, want: dict[str, Any], tol: float = 1e-9,
    mistakes: list[tuple[str, dict[str, Any]]] | None = None,
) -> str:  # fmt: skip
    """ "" if all results are right, else one message for a screen.

    mistakes  (message, what this mistake gives) of the usual ones
    """
    if not isinstance(got, dict) or set(got) != set(want):
        names = ", ".join(sorted(got)) if isinstance(got, dict) else type(got).__name__
        return f"adapters.py must return {', '.join(want)}; it returned {names}"
    wrong = [text for name in want if (text := differs(name, got[name], want[name], tol))]
    if not wrong:
        return ""
    for message, result in mistakes or ():
        if set(result) == set(got) and not any(
            differs(name, got[name], result[name], tol) for name in got
        ):
            return message
    return wrong[0]


def differs(name: str, got: Any, want: Any, tol: float) -> str:
    """ "" if an array is the wanted one, else how it differs."""
    if got is None:
        return f"{name} is None: is a `return` missing?"
    if not isinstance(got, np.ndarray | np.generic | int | float | list):
        kind = type(got).__name__
        return f"{name} must be an array, got a {kind}." + " Its .data is one." * (kind == "Tensor")
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype.kind not in "fiub":
        return f"{name} must be numbers, got {got.dtype}"
    if got.shape != want.shape:
        turned = " It is transposed." if got.shape == want.shape[::-1] else ""
        return f"{name} must have the shape {want.shape}, got {got.shape}.{turned}"
    if not want.size:
        return ""
    a, b = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        error = np.where(same, 0.0, np.abs(a - b))
        scale = max(1.0, float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0)))
    if np.all(error <= tol * scale):  # a NaN is not
        return ""
    at = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
    where = f"{name}[{', '.join(map(str, at))}]" if at else name
    return f"{where} = {a[at]:.6g}, wanted {b[at]:.6g}.{_guess(name, a, b, tol * scale)}"


@np.errstate(all="ignore")  # a usual mistake may give infinities
def _guess(name: str, a: Any, b: Any, tol: float) -> str:
    """What a wrong array looks like."""

    def near(x: Any, y: Any) -> bool:
        return x.shape == y.shape and x.size > 0 and bool(np.all(np.abs(x - y) <= tol))

    if not np.all(np.isfinite(a)) and np.all(np.isfinite(b)):
        return f" {name} holds NaN or infinity: look for a division by 0, or exp of a large number."
    if not np.any(a):
        lost = " No gradient arrived: was .data or a new Tensor used on the way?"
        return f" All of {name} is 0." + lost * name.startswith("g")
    if near(a, -b):
        return " Only the sign is wrong."
    with np.errstate(all="ignore"):
        used = np.abs(b) > 1e-6 * max(1e-300, float(np.max(np.abs(b))))
        ratio = a[used] / b[used]
    if ratio.size > 1 and near(a, ratio[0] * b):
        return f" All of {name} is {ratio[0]:.6g} times what it should be: look for a scale."
    if a.ndim >= 2 and near(a, b.swapaxes(-1, -2)):
        return f" {name} is transposed."
    for axis in range(a.ndim):
        if a.shape[axis] < 2:
            continue
        if near(np.roll(a, 1, axis), b) or near(np.roll(a, -1, axis), b):
            return f" {name} is off by one along axis {axis}."
        if near(np.flip(a, axis), b):
            return f" {name} is reversed along axis {axis}."
    if np.any(differ := a - b) and np.all(np.abs(differ - differ.flat[0]) <= tol) and a.size > 1:
        return f" All of {name} is too large by {differ.flat[0]:.6g}: a term is missing or extra."
    if np.max(np.abs(a - b)) <= 1e-6 * max(1.0, np.max(np.abs(b))):
        if np.all(a == a.astype(np.float32)):
            return " This is what 32-bit numbers give: compute in float64."
        return " This is nearly right: is a constant rounded, or a small number added to a divisor?"
    right = float(np.mean(np.abs(a - b) <= tol))
    return f" {right:.0%} of {name} is right." if right else ""


# -- the public tests -----------------------------------------------------------------------------


def told(tests: Path = PUBLIC) -> dict[str, Any]:
    """What the homework.json of a folder of tests says."""
    return json.loads((tests / "homework.json").read_text(encoding="utf-8"))


def cases(hole: str = "", name: str = "", tests: Path = PUBLIC) -> list[dict[str, Any]]:
    """The tests, of one hole or all. Raises  SystemExit that names the holes or tests there are"""
    there = told(tests)
    ids = [one["id"] for one in there["holes"]]
    if hole and hole not in ids:
        raise SystemExit(f"{there['name']} has no hole {hole!r}; it has {', '.join(ids)}")
    found = [case for case in there["cases"] if hole in ("", case["hole"])]
    names = [case["name"] for case in found]
    if name and name not in names:
        raise SystemExit(f"{hole} has no test {name!r}; it has {', '.join(names)}")
    return [case for case in found if name in ("", case["name"])]


def run(case: dict[str, Any], tests: Path = PUBLIC) -> str:
    """Run one test on this folder's code. Returns  "" if it passes, else the message."""
    stored = unpack((tests / f"{case['name']}.safetensors").read_bytes())
    messages = {one["id"]: one["mistakes"] for one in told(tests)["holes"]}[case["hole"]]
    for seed in case["seeds"]:
        try:
            adapters = importlib.import_module("adapters")
            got = getattr(adapters, case["name"])(**under(stored, f"{seed}/in/"))
        except NotImplementedError as error:
            text = f"{error}" or _told(error)
            return text if text.startswith(case["hole"]) else f"needs {text}"
        except Exception as error:
            return _told(error)
        usual = [(text, under(stored, f"{seed}/wrong{i}/")) for i, text in enumerate(messages)]
        message = compare(got, under(stored, f"{seed}/want/"), case["tol"], usual)
        if message:
            return message
    return ""


def under(stored: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The values whose names begin so, without it."""
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


def _told(error: Exception) -> str:
    """An error and where it came by: the last line in a file with holes, else in this folder."""
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if isinstance(error, SyntaxError):  # which says itself where it is
        return text
    frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    own = [(p, n) for p, n in frames if p.is_relative_to(HERE) and p.name != "homework.py"]
    holes = {HERE / one["at"].partition("::")[0] for one in told()["holes"]}
    own = [(p, n) for p, n in own if p in holes] or own
    return f"{text}\n({own[-1][0].relative_to(HERE)}, line {own[-1][1]})" if own else text


def report(hole: str = "", name: str = "", tests: Path = PUBLIC) -> bool:
    """Print a line for each test, the reasons below. Returns  whether all passed."""
    there, wrong, left, done = told(tests), [], [], 0.0
    titles = {one["id"]: one["title"] for one in there["holes"]}
    last = ""
    for case in cases(hole, name, tests):
        if case["hole"] != last:
            last = case["hole"]
            print(f"{last}  {titles[last]}")
        if __name__ == "__main__":  # it says where, and stops
            faulthandler.dump_traceback_later(EACH, exit=True)
        message = run(case, tests)
        faulthandler.cancel_dump_traceback_later()
        is_open = message.startswith((*titles, "needs "))
        print(f"    {'open' if is_open else 'WRONG' if message else 'ok':6} {case['name']}",
              flush=True)  # fmt: skip
        left += [case["hole"]] if message else []
        done += case["points"] * (not message)
        if message and not message.startswith(case["hole"]):
            wrong.append((case, message))
    for case, message in wrong:
        print(f"\n{case['hole']} {case['name']}:\n  " + message.replace("\n", "\n  "))
    of = sum(case["points"] for case in cases(hole, name, tests))
    kind, more = "Hidden", ""
    if tests == PUBLIC:
        kind, more = "Public", " Grading draws other inputs, and shows you half of its results."
    print(f"\n{kind} tests passed for {done:g} of {of:g} points.{more}")
    if left and tests == PUBLIC:
        print(f'A hint: python homework.py --hint {left[0]}, in a notebook hint("{left[0]}")')
    return not left


def hint(hole: str) -> None:
    """Print the next hint for a hole, and those before it."""
    cases(hole)
    hints = {one["id"]: one["hints"] for one in told()["holes"]}[hole]
    taken = json.loads(TAKEN.read_text(encoding="utf-8")) if TAKEN.is_file() else {}
    n = min(taken.get(hole, 0) + 1, len(hints))
    TAKEN.write_text(json.dumps({**taken, hole: n}), encoding="utf-8")
    for i, text in enumerate(hints[:n], 1):
        print(f"Hint {i} of {len(hints)}: {text}")


# -- in a notebook --------------------------------------------------------------------------------


class Wrong(AssertionError):
    """Tests do not pass. Its text is the report; a notebook has printed that, and says so."""

    def _render_traceback_(self) -> list[str]:
        return ["Not right yet: see above."]


def check(hole: str = "", name: str = "", tests: str = "") -> None:
    """Run the tests in a fresh process, on the files as they are now, and print the report.

    name    of one test of the hole
    tests   a folder of other tests, in this folder or one around it
    Raises  Wrong, an AssertionError, if one fails
    """
    places = [place / tests for place in (HERE, *HERE.parents)] if tests else [PUBLIC]
    folder = next((place for place in places if (place / "homework.json").is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"no {tests or PUBLIC.name}/homework.json in {HERE} or above it")
    try:
        cases(hole, name, folder)
    except SystemExit as error:
        raise ValueError(f"{error}") from None
    command = [sys.executable, "-B", str(HERE / "homework.py"), hole, name, "--tests", str(folder)]
    try:
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, text=True, encoding="utf-8", errors="replace",
            timeout=SECONDS, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        passed, text = done.returncode == 0, done.stdout.rstrip() or done.stderr.rstrip()
    except subprocess.TimeoutExpired:
        passed, text = False, f"{hole}  its tests take more than {SECONDS} s: is there a loop?"
    print(text)
    if not passed:
        raise Wrong(text)


def fill(hole: str) -> Callable[[Any], Any]:
    """Decorate a function in a cell with this: its body goes into the hole's file.

    One that has only `raise NotImplementedError()`, `...` or `pass` leaves the file as it is.
    Raises  ValueError if its arguments are not the hole's
    """
    cases(hole)
    at = {one["id"]: one["at"] for one in told()["holes"]}[hole]

    def put(function: Any) -> Any:
        file, _, name = at.partition("::")
        before = (HERE / file).read_text(encoding="utf-8")
        after = replaced(before, name, textwrap.dedent(inspect.getsource(function)))
        if after not in ("", before):
            new = HERE / f"{file}.new"
            new.write_text(after, encoding="utf-8", newline="\n")
            os.replace(new, HERE / file)
        says = "is as the file has it" if after == before else f"was written into {file}"
        print(f"{hole} {says if after else 'has no code here: its file stays as it is'}")
        return function

    return put


def replaced(source: str, name: str, typed: str) -> str:
    """The source with the body of the function typed in place of its own; "" if that is empty.

    name  "tanh", "LoRALinear.forward", or "softmax.vjp" for one inside another
    """
    old, new = _function(source, name), _function(typed, name.rpartition(".")[2])
    wanted, given = (
        [a.arg for a in ast.walk(f.args) if isinstance(a, ast.arg)] for f in (old, new)
    )
    if wanted != given:
        raise ValueError(f"{name} has the arguments {', '.join(wanted)}; got {', '.join(given)}")
    there = {ast.dump(statement) for statement in old.body}
    empty = [_is_empty(statement) for statement in _code(new)]
    if (
        not empty
        or any(empty)
        and all(e or ast.dump(s) in there for e, s in zip(empty, _code(new), strict=True))
    ):
        return ""
    start, end, before = _lines(source, old)
    first, last, indent = _lines(typed, new)
    moved = [line.removeprefix(indent) for line in typed.splitlines()[first:last]]
    plain = [line for part in _code(new) for line in ast.unparse(part).splitlines()]
    for body in (moved, plain):  # the second where a text of several lines would change
        lines = source.splitlines()
        lines[start:end] = [before + line if line.strip() else "" for line in body]
        made = "\n".join(lines) + "\n"
        if [*map(ast.dump, _code(_function(made, name)))] == [*map(ast.dump, _code(new))]:
            break
    return made


def _function(source: str, name: str) -> ast.FunctionDef:
    found: Any = ast.parse(source)
    for part in name.split("."):
        inner = [n for n in ast.walk(found) if isinstance(n, ast.FunctionDef | ast.ClassDef)
                 and n.name == part and n is not found]  # fmt: skip
        if not inner:
            raise ValueError(f"a function {name} was expected, and there is none")
        found = inner[0]
    return found


def _code(function: ast.FunctionDef) -> list[ast.stmt]:
    """The statements behind the docstring."""
    return function.body[ast.get_docstring(function, clean=False) is not None :]


def _is_empty(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or ast.unparse(statement).startswith(
        ("...", "raise NotImplementedError")
    )


def _lines(source: str, function: ast.FunctionDef) -> tuple[int, int, str]:
    """Where the body begins, comments above it included, and ends; its indentation."""
    lines, first = source.splitlines(), _code(function)[0]
    start = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", ()))]) - 1
    indent = lines[start][: first.col_offset]
    while start and lines[start - 1].strip()[:1] in ("", "#"):
        start -= 1
    return start, function.body[-1].end_lineno or 0, indent


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hole", nargs="?", default="", help="e.g. hw3.1; all without it")
    parser.add_argument("name", nargs="?", default="", help="one test of the hole")
    parser.add_argument("--tests", metavar="DIR", default=PUBLIC, type=Path, help="other tests")
    parser.add_argument("--hint", metavar="HOLE", help="the next hint for a hole")
    args = parser.parse_args()
    if args.hint:
        hint(args.hint)
        return 0
    return 0 if report(args.hole, args.name, args.tests) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main())
