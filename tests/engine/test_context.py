"""What a forward pass depends on besides its inputs, in tasks, threads and generators too."""

import ast
import asyncio
import contextvars
import threading
from pathlib import Path

import numpy as np
import pytest

import minipeft
from minipeft.backend import Rng
from minipeft.engine import Tensor, context, no_grad, running
from minipeft.engine.tensor import Context, changed

PACKAGE = Path(minipeft.__file__).parent


def records():
    """Whether an operation is recorded here."""
    return (Tensor([1.0], requires_grad=True) * 2)._node is not None


# -- what is named changes, and nothing else ---------------------------------------------------


def test_running_sets_the_context_and_puts_it_back():
    rng, handle = Rng(0), object()
    assert context() == Context()
    with running(rng=rng, off=[handle]):
        assert context().rng is rng and context().off == (handle,)
    assert context() == Context()
    with pytest.raises(ZeroDivisionError), running(rng=rng):
        raise ZeroDivisionError
    assert context() == Context()


SETTINGS = {"rng": Rng(0), "off": ("a",), "rows": ("b", None), "recompute": True, "hidden": "h"}
RESET = {"rng": None, "off": (), "rows": None, "recompute": False, "hidden": None}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_nested_running_keeps_what_it_does_not_name(name):
    def now():
        return {key: getattr(context(), key) for key in SETTINGS}

    with running(**SETTINGS):
        assert now() == SETTINGS
        with running():
            assert now() == SETTINGS
        with running(**{name: RESET[name]}):
            assert now() == SETTINGS | {name: RESET[name]}
            with no_grad():
                assert now() == SETTINGS | {name: RESET[name]}
        assert now() == SETTINGS and records()


def test_no_grad_outlasts_what_begins_inside():
    with no_grad():
        with running(rng=Rng(0)):
            assert not records()
        with no_grad():
            pass
        assert not records()
    assert records()


def test_a_context_cannot_be_written_to():
    with pytest.raises(AttributeError):
        context().recording = False
    assert records()


# -- tasks and threads -------------------------------------------------------------------------


def test_tasks_do_not_see_each_other():
    seen = {}

    async def work(name, wait, **settings):
        with running(**settings), no_grad():
            await asyncio.sleep(0)  # the other one begins, and ends first or last
            for _ in range(wait):
                await asyncio.sleep(0)
            seen[name] = context().rng, context().off, records()
        return records()

    async def both():
        rng = Rng(1)
        tasks = [work("a", 1, rng=rng), work("b", 3, off=("x",)), work("c", 0)]
        with running(off=("all",)):
            after = await asyncio.gather(*tasks)
            assert context().off == ("all",) and records()
        return rng, after

    rng, after = asyncio.run(both())
    assert seen == {"a": (rng, ("all",), False), "b": (None, ("x",), False),
                    "c": (None, ("all",), False)}  # fmt: skip
    assert after == [True] * 3 and context() == Context()


def test_a_thread_has_its_own_context_unless_it_is_handed_one():
    seen = []

    def look():
        seen.append((context().off, records()))
        with no_grad():
            seen.append(records())

    with running(off=["a"]):
        with no_grad():
            for target, args in ((contextvars.Context().run, (look,)),
                                 (contextvars.copy_context().run, (look,))):  # fmt: skip
                thread = threading.Thread(target=target, args=args)
                thread.start()
                thread.join()
        assert records()
    assert seen == [((), True), False, (("a",), False), False]


# -- generators --------------------------------------------------------------------------------


def suspended():
    with no_grad():
        yield 1
        yield 2


def test_a_block_that_ends_before_one_inside_it_raises_and_ends_both():
    with pytest.raises(RuntimeError, match=r"running\(rng, off\) was left out of order.*generator"):
        with running(rng=Rng(0), off=()):
            left = suspended()
            next(left)
    assert context() == Context() and records()
    with pytest.raises(RuntimeError, match=r"no_grad\(\) was left out of order"):
        left.close()
    assert context() == Context()
    with running(off=["a"]):  # and another that has no part in it is let alone
        late = suspended()
        with pytest.raises(RuntimeError, match=r"running\(recompute\)"), running(recompute=True):
            next(late)
        with pytest.raises(RuntimeError, match="no_grad"):
            list(late)
        assert context().off == ("a",) and records()


def test_a_generator_that_goes_on_inside_a_later_block_raises_and_leaves_nothing_on():
    left = suspended()
    next(left)
    assert not records()  # it shares the context of whoever runs it
    with pytest.raises(RuntimeError, match=r"running\(recompute\) was left out of order"):
        with running(recompute=True):
            with pytest.raises(RuntimeError, match=r"no_grad\(\) was left out of order"):
                list(left)
    assert context() == Context()


def test_generators_that_end_in_order_are_fine():
    with running(off=["a"]):
        assert list(suspended()) == [1, 2]
        for _ in suspended():
            with running(rng=Rng(0)):
                assert not records()
        assert context().off == ("a",) and records()


SETS = {"running", "no_grad", "changed", "metered", "_forward_scope"}


def yields_inside(source):
    """Names of the generators that yield inside a block which changes the context."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        if any(getattr(d, "id", "") == "contextmanager" for d in function.decorator_list):
            continue  # it yields once, to a `with`
        for block in (n for n in ast.walk(function) if isinstance(n, ast.With)):
            calls = [n for item in block.items for n in ast.walk(item.context_expr)]
            names = {getattr(n, "id", getattr(n, "attr", "")) for n in calls}
            inside = (n for statement in block.body for n in ast.walk(statement))
            if names & SETS and any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in inside):
                found.append(function.name)
    return found


def test_no_generator_of_ours_yields_inside_a_changed_context():
    bad = (
        "def f():\n    with open(x), engine.no_grad():\n        for i in x:\n            yield i\n"
    )
    assert yields_inside(bad) == ["f"]
    assert yields_inside(bad.replace("no_grad", "read")) == []
    for file in PACKAGE.rglob("*.py"):
        assert not yields_inside(file.read_text(encoding="utf-8")), file


# -- what the package does with it --------------------------------------------------------------


def test_values_are_seen_inside_the_block_alone():
    p, source = Tensor([1.0], requires_grad=True), Tensor([5.0], requires_grad=True)
    with changed(values={id(p): source * 2}):
        inside = (p * 3).sum()
    assert inside.item() == 30 and (p * 3).sum().item() == 3
    inside.backward()
    np.testing.assert_array_equal(source.grad, [6])
