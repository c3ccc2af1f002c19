"""Copies are found under any names and layout; independent right answers are not."""

import ast
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minipeft.cli.teaching import alike
from minipeft.course.grading.similar import (
    OTHER,
    REFERENCE,
    similar,
    winnowed,
    words,
)
from minipeft.course.homework.assignment import Assignment, Case, Hole

FILE = "minipeft/nn/parts.py"
HOLES = tuple(
    Hole(f"hw9.{i}", f"{FILE}::{name}", "", (), (Case(name, 10.0),), ())
    for i, name in enumerate(("layer_norm", "attention", "quantize"), 1)
)
HOMEWORK = Assignment(Path(), "hw9", "", (1, 2), (), (), HOLES, (), {})
HEAD = '''
import numpy as np

def softmax(x, axis=-1):
    """Given."""
    z = np.exp(x - x.max(axis=axis, keepdims=True))
    return z / z.sum(axis=axis, keepdims=True)

'''
STARTER = (
    HEAD
    + '''
def layer_norm(x, w, b, g, eps):
    """y and the gradients."""
    raise NotImplementedError("hw9.1")

def attention(q, k, v, mask):
    """softmax(q k' / sqrt(d)) v"""
    raise NotImplementedError("hw9.2")

def quantize(w, book, block):
    """codes and scales"""
    raise NotImplementedError("hw9.3")
'''
)

ANSWERS = {  # four people, each in their own way
    "ann": """
        def layer_norm(x, w, b, g, eps):
            mean = x.mean(-1, keepdims=True)
            var = ((x - mean) ** 2).mean(-1, keepdims=True)
            s = 1.0 / np.sqrt(var + eps)
            h = (x - mean) * s
            y = h * w + b
            hbar = g * w
            gx = s * (hbar - hbar.mean(-1, keepdims=True) - h * (h * hbar).mean(-1, keepdims=True))
            gw = (g * h).sum(0)
            gb = g.sum(0)
            return y, gx, gw, gb

        def attention(q, k, v, mask):
            d = q.shape[-1]
            scores = q @ k.swapaxes(-1, -2) / np.sqrt(d)
            scores = np.where(mask, scores, -np.inf)
            p = softmax(scores)
            return p @ v

        def quantize(w, book, block):
            parts = w.reshape(-1, block)
            scales = np.abs(parts).max(1, keepdims=True)
            scales[scales == 0] = 1.0
            distance = np.abs(parts[..., None] / scales[..., None] - book)
            codes = distance.argmin(-1)
            return codes, scales[:, 0]
        """,
    "bob": """
        def layer_norm(x, w, b, g, eps):
            C = x.shape[-1]
            centred = x - np.sum(x, axis=-1, keepdims=True) / C
            std = np.sqrt(np.var(x, axis=-1, keepdims=True) + eps)
            normal = centred / std
            out = w * normal + b
            grad_b, grad_w = np.sum(g, axis=0), np.sum(g * normal, axis=0)
            dn = np.multiply(g, w)
            total = np.sum(dn, axis=-1, keepdims=True)
            along = np.sum(dn * normal, axis=-1, keepdims=True)
            return out, (C * dn - total - normal * along) / (C * std), grad_w, grad_b

        def attention(q, k, v, mask):
            logits = np.einsum("bhtd,bhsd->bhts", q, k)
            logits *= q.shape[-1] ** -0.5
            logits[~np.broadcast_to(mask, logits.shape)] = -1e30
            return np.einsum("bhts,bhsd->bhtd", softmax(logits, axis=3), v)

        def quantize(w, book, block):
            codes, scales = [], []
            for start in range(0, w.size, block):
                piece = w.ravel()[start : start + block]
                top = np.max(np.abs(piece))
                if top == 0:
                    top = 1.0
                scales.append(top)
                codes.append([int(np.argmin(np.abs(book - value / top))) for value in piece])
            return np.array(codes), np.array(scales)
        """,
    "eve": """
        def layer_norm(x, w, b, g, eps):
            m, v = np.mean(x, -1)[..., None], np.var(x, -1)[..., None]
            r = (v + eps) ** -0.5
            xhat = r * (x - m)
            def project(t):
                t = t - np.mean(t, -1)[..., None]
                return t - xhat * np.mean(t * xhat, -1)[..., None]
            return xhat * w + b, r * project(g * w), np.einsum("nc,nc->c", g, xhat), sum(g)

        def attention(q, k, v, mask):
            out = np.zeros_like(q)
            for t in range(q.shape[2]):
                row = (q[:, :, t, None] * k).sum(-1) / q.shape[3] ** 0.5
                row = row + np.log(mask[t].astype(float) + 1e-300)
                out[:, :, t] = (softmax(row)[..., None] * v).sum(2)
            return out

        def quantize(w, book, block):
            rows = w.reshape(w.size // block, block)
            biggest = np.linalg.norm(rows, np.inf, axis=1)
            safe = np.maximum(biggest, np.finfo(w.dtype).tiny)
            middle = (book[1:] + book[:-1]) / 2
            return np.searchsorted(middle, rows / safe[:, None]), np.where(biggest > 0, biggest, 1)
        """,
    "reference": """
        def layer_norm(x, w, b, g, eps):
            size = x.shape[-1]
            d = x - x.mean(axis=-1, keepdims=True)
            inverse = 1 / np.sqrt((d * d).sum(axis=-1, keepdims=True) / size + eps)
            h = d * inverse
            gh = g * w
            inner = gh - h * ((gh * h).sum(axis=-1, keepdims=True) / size)
            inner -= gh.sum(axis=-1, keepdims=True) / size
            return h * w + b, inverse * inner, (g * h).sum(axis=0), g.sum(axis=0)

        def attention(q, k, v, mask):
            scale = 1 / math.sqrt(q.shape[-1])
            logits = np.matmul(q * scale, np.transpose(k, (0, 1, 3, 2)))
            weights = softmax(np.where(mask, logits, np.finfo(q.dtype).min))
            return np.matmul(weights, v)

        def quantize(w, book, block):
            flat = np.ravel(w)
            absmax = np.abs(flat.reshape((-1, block))).max(axis=-1)
            absmax = np.where(absmax == 0, 1, absmax)
            scaled = flat / np.repeat(absmax, block)
            nearest = np.abs(np.subtract.outer(scaled, book)).argmin(axis=1)
            return nearest.reshape((-1, block)), absmax
        """,
}


def text(name):
    return HEAD + "import math\n" + textwrap.dedent(ANSWERS[name])


class Renamed(ast.NodeTransformer):
    """Every variable and argument under another name, literals changed a little."""

    def visit_Name(self, node):  # noqa: N802
        if node.id not in ("np", "softmax", "math", "range", "int", "sum"):
            node.id = "z" + node.id[::-1]
        return node

    def visit_arg(self, node):  # noqa: N802
        node.arg = "z" + node.arg[::-1]
        return node

    def visit_Constant(self, node):  # noqa: N802
        return ast.Constant(node.value + 1e-9) if type(node.value) is float else node


def renamed(source):
    tree = ast.parse(source)
    given = [n for n in tree.body if getattr(n, "name", "") == "softmax"]
    tree.body = [n if n in given else Renamed().visit(n) for n in tree.body]
    return ast.unparse(tree)  # without comments, in another layout


def reordered(source):
    """Functions from the last to the first, independent lines exchanged, operands turned."""
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if not isinstance(n, ast.FunctionDef)] + [
        n for n in reversed(tree.body) if isinstance(n, ast.FunctionDef)
    ]
    out = ast.unparse(tree)
    for a, b in (
        ("gw = (g * h).sum(0)\n    gb = g.sum(0)", "gb = g.sum(0)\n    gw = (h * g).sum(0)"),
        ("y = h * w + b\n    hbar = g * w", "hbar = w * g\n    y = b + w * h"),
    ):
        assert a in out
        out = out.replace(a, b)
    return out


def hand_in(folder, name, source, zipped=False):
    file = folder / name / "work" / FILE
    file.parent.mkdir(parents=True)
    file.write_text(source)
    if not zipped:
        return folder / name
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as out:
        out.write(file, f"work/{FILE}")
    return folder / f"{name}.zip"


def compared(folder, given, **more):
    folder.mkdir(exist_ok=True)
    paths = {name: hand_in(folder, name, source) for name, source in given.items()}
    earlier = {
        f"2025/{name}": hand_in(folder, f"old-{name}", source, zipped=True)
        for name, source in more.pop("earlier", {}).items()
    }
    return similar(HOMEWORK, paths, {FILE: STARTER}, {FILE: text("reference")}, earlier, **more)


def test_the_answers_are_right():
    rng = np.random.default_rng(0)
    x, w, b, g = (rng.normal(size=s) for s in ((4, 5), 5, 5, (4, 5)))
    q, k, v = (rng.normal(size=(2, 2, 3, 4)) for _ in range(3))
    book = np.linspace(-1, 1, 7)
    results = []
    for name in ANSWERS:
        space = {}
        exec(text(name), space)
        results.append([
            *space["layer_norm"](x, w, b, g, 1e-5),
            space["attention"](q, k, v, np.tril(np.ones((3, 3), bool))),
            *space["quantize"](rng.normal(size=(4, 6)) * 0 + x[:, :1], book, 6),
        ])  # fmt: skip
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_independent_answers_are_not_reported(tmp_path):
    own = {name: text(name) for name in ("ann", "bob", "eve")}
    assert compared(tmp_path / "a", own)[0] == []
    close, _ = compared(tmp_path / "b", own, share=0.0, enough=0)
    assert len(close) == 3 + 3 and max(p.share for p in close) < 0.3


@pytest.mark.parametrize("change", [renamed, reordered, lambda s: renamed(reordered(s))])
def test_a_copy_is_found(tmp_path, change):
    copy = change(text("ann"))
    assert copy != text("ann")
    found = compared(tmp_path, {"ann": text("ann"), "bob": text("bob"), "mallory": copy})
    ((pair,), unread) = found
    assert {pair.first, pair.second} == {"ann", "mallory"} and pair.share > 0.9
    assert set(pair.holes) == {"hw9.1", "hw9.2", "hw9.3"}
    told = alike(*found)
    assert unread == {} and "mallory" in told and "hw9.1" in told


def test_one_copied_hole_is_told(tmp_path):
    mixed = ast.parse(text("bob"))
    mixed.body = [n if getattr(n, "name", "") != "layer_norm" else
                  next(m for m in ast.parse(text("ann")).body
                       if getattr(m, "name", "") == "layer_norm") for n in mixed.body]  # fmt: skip
    given = {"ann": text("ann"), "carl": renamed(ast.unparse(mixed))}
    ((pair,), _) = compared(tmp_path, given, share=0.3)
    assert pair.holes == ("hw9.1",)


def test_the_reference_and_earlier_terms(tmp_path):
    given = {"ann": text("ann"), "carl": renamed(text("reference"))}
    found, _ = compared(tmp_path, given, earlier={"zoe": renamed(text("ann")), "yan": text("ann")})
    assert {(p.first, p.second) for p in found} == {
        ("carl", REFERENCE),
        ("ann", "2025/zoe"),
        ("ann", "2025/yan"),
    }


def test_what_the_starter_has_counts_for_nothing(tmp_path):
    found = compared(tmp_path / "a", {"a": STARTER, "b": STARTER}, share=0.0, enough=1)
    assert found == ([], {})
    helper = "\n\ndef helper(a, b):\n    c = a + b * a\n    d = c / a - b\n    return c ** d, -d\n"
    given = {"a": STARTER + helper, "b": STARTER + renamed(helper)}
    ((pair,), _) = compared(tmp_path / "b", given, enough=3)
    assert pair.holes == (OTHER,)


def test_what_many_have_counts_for_nothing(tmp_path):
    crowd = {f"s{i}": text("ann") for i in range(6)}
    assert compared(tmp_path / "a", crowd)[0] == []
    five = dict(list(crowd.items())[:5])
    assert len(compared(tmp_path / "b", five)[0]) == 10


def test_a_crowd_that_copied_the_reference_is_found(tmp_path):
    crowd = {f"s{i}": text("reference") for i in range(8)} | {"ann": text("ann")}
    pairs, _ = compared(tmp_path, crowd)
    assert {(p.first, p.second) for p in pairs} == {(f"s{i}", REFERENCE) for i in range(8)}


def test_engines_of_their_own_are_compared_by_all_their_files(tmp_path):
    stubs = {"adapters.py": "def forward(x):\n    raise NotImplementedError\n"}
    given = {}
    for name, source in (("ann", text("ann")), ("bob", text("bob")),
                         ("carl", renamed(text("ann")))):  # fmt: skip
        given[name] = tmp_path / name
        given[name].mkdir()
        (given[name] / "adapters.py").write_text(stubs["adapters.py"])
        (given[name] / f"engine_of_{name}.py").write_text(source)
        (given[name] / "notes.txt").write_text("no code (")
    reference = {FILE: text("reference")}
    (pair,), unread = similar(HOMEWORK, given, stubs, reference, own=True)
    assert (pair.first, pair.second, pair.holes) == ("ann", "carl", (OTHER,)) and not unread


def test_short_answers_are_not_reported(tmp_path):
    short = STARTER.replace('raise NotImplementedError("hw9.2")', "return softmax(q @ k.T) @ v")
    assert short != STARTER
    assert compared(tmp_path, {"a": short, "b": renamed(short)})[0] == []


def test_what_cannot_be_read_is_told(tmp_path):
    given = {
        "ok": text("ann"),
        "syntax": "def f(:\n",
        "deep": "x = " + "(" * 90 + "-" * 90_000 + "1" + ")" * 90,
        "large": "x = 1\n" * 200_000,
        "nul": "x = '\0'",
    }
    found = compared(tmp_path, given)
    assert set(found[1]) == {"syntax", "deep", "large", "nul"}
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "x.txt").write_text("x")
    found = similar(HOMEWORK, {"e": empty}, {FILE: STARTER}, {FILE: text("reference")})
    assert "minipeft/nn/parts.py was not handed in" in found[1]["e"]
    assert "not read: e:" in alike(*found)


def test_any_shared_run_of_tokens_leaves_a_print():
    rng = np.random.default_rng(1)
    for _ in range(50):
        shared = [str(i) for i in rng.integers(0, 99, 13)]
        a, b = ([*map(str, rng.integers(100, 999, n)), *shared] for n in rng.integers(0, 30, 2))
        assert winnowed(a) & winnowed(b)
    assert winnowed(["a"] * 9) == set()


def told(source):
    return words(ast.parse(textwrap.dedent(source)), {"sum"})


@pytest.mark.parametrize(
    "a, b",
    [
        ("y = a * b.c + 1", "w = 2 + (f * d.e)  # a comment"),
        ("f(x, axis=1, keep=True)", "f(x, keep=False, axis=0)"),
        ("y: int = a", "y = a"),
        ("def f(x: int) -> int:\n 'doc'\n pass\n return x", "def g(y):\n  return y"),
        ("a = x + 1\nb = x @ y", "b = x @ y\na = x + 1"),
        ("a[0] = x\nb = x @ y\nc = a", "d = x @ y\na[0] = x\nc = a"),
    ],
)  # fmt: skip
def test_what_a_copy_changes_first_does_not_show(a, b):
    assert told(a) == told(b)


@pytest.mark.parametrize(
    "a, b",
    [
        ("y = a @ b.c", "y = b.c @ a"),
        ("y = a - b.c", "y = a + b.c"),
        ("x.sum()", "x.mean()"),  # a name of the starter
        ("a[0] = x + 1\nb = a @ y", "b = a @ y\na[0] = x + 1"),  # the second needs the first
        ("a += b @ c\na = -a", "a = -a\na += b @ c"),
        ("a = b + 1\nf(a)\nc = b @ b", "c = b @ b\nf(a)\na = b + 1"),  # f may do anything
    ],
)
def test_what_computes_another_thing_shows(a, b):
    assert told(a) != told(b)
