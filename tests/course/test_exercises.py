"""What the student types is checked and called; a solution stands in where that is asked for."""

import pytest

from minipeft.course.exercises import SOLVED, exercise, folded


def scaled(x, s=2):
    """s x"""
    return s * x


@pytest.fixture(autouse=True)
def unsolved(monkeypatch):
    monkeypatch.delenv(SOLVED, raising=False)


def of_student(result):
    def scaled(x, s=2):
        """What is typed."""
        return result

    return scaled


def test_what_is_typed_is_called():
    typed = exercise(scaled)(of_student(7))
    assert typed(1) == 7 and typed.__doc__ == "What is typed."


@pytest.mark.parametrize("result", [0, 0.0, False, ""])
def test_a_result_that_is_false_is_a_result(result):
    assert exercise(scaled)(of_student(result))(1) == result


def test_nothing_typed_says_what_to_do():
    with pytest.raises(NotImplementedError, match=f"scaled.*YOUR CODE.*%env {SOLVED}=1"):
        exercise(scaled)(of_student(None))(1)


def test_the_solution_stands_in_where_that_is_asked_for(monkeypatch):
    monkeypatch.setenv(SOLVED, "1")
    assert exercise(scaled)(of_student(None))(3, s=4) == 12
    monkeypatch.setenv(SOLVED, "0")
    assert exercise(scaled)(of_student(5))(3, s=4) == 5


def test_another_name_or_other_parameters_are_refused(monkeypatch):
    def other(x, s=2):
        return x

    with pytest.raises(TypeError, match=r"scaled\(x, s=2\), got other\(x, s=2\)"):
        exercise(scaled)(other)
    monkeypatch.setenv(SOLVED, "1")
    with pytest.raises(TypeError, match=r"got scaled\(x\)"):
        exercise(scaled)(renamed())


def renamed():
    def scaled(x: int) -> int:
        return x

    return scaled


def test_a_solution_is_shown_folded():
    assert folded(scaled) == (
        "<details>\n<summary>Solution</summary>\n\n```python\n"
        'def scaled(x, s=2):\n    """s x"""\n    return s * x\n```\n\n</details>'
    )
