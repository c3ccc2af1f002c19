"""Cells of a lecture that the student fills, and the course's solutions of them.

    @exercise(solutions.scaled)
    def scaled(x, s):
        # YOUR CODE: 1 line

With MINIPEFT_SOLVED=1 the course's function stands in for what was typed.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

SOLVED = "MINIPEFT_SOLVED"

Function = Callable[..., Any]


def exercise(solution: Function) -> Callable[[Function], Function]:
    """Decorates a function that the student types.

    solution  the course's function, of the same name and parameters
    Raises    TypeError where name or parameters differ; NotImplementedError where a call returns
              nothing, as there is nothing typed yet
    """

    def chosen(typed: Function) -> Function:
        want, got = _head(solution), _head(typed)
        if got != want:
            raise TypeError(f"this exercise is the function {want}, got {got}")
        if os.environ.get(SOLVED) == "1":
            return solution

        @functools.wraps(typed)
        def call(*args: Any, **named: Any) -> Any:
            result = typed(*args, **named)
            if result is None:
                raise NotImplementedError(
                    f"{typed.__name__} returns nothing yet: type its lines at YOUR CODE. To go on "
                    f"with the course's solution, run %env {SOLVED}=1, then this cell again"
                )
            return result

        return call

    return chosen


def _head(function: Function) -> str:
    """Name and parameters, without annotations: "scaled(x, s=1)"."""
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return f"{function.__name__}{inspect.Signature(bare)}"


def folded(solution: Function) -> str:
    """The markdown of a block that unfolds to show a solution."""
    code = inspect.getsource(solution).strip()
    return f"<details>\n<summary>Solution</summary>\n\n```python\n{code}\n```\n\n</details>"
