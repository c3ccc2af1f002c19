"""What a long loop prints, with a clock that the test moves."""

import io

import pytest

from minipeft.display import progress
from minipeft.display.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock in a list, that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_short_loop_prints_nothing(clock):
    out = io.StringIO()
    show = Progress("training", 10, out=out)
    for done in range(1, 11):
        clock[0] += 0.1
        show.update(done)
    show.done()
    assert out.getvalue() == ""


def test_a_file_gets_a_line_now_and_then_with_the_time_to_go(clock):
    out = io.StringIO()
    show = Progress("training", 100, out=out)
    for done in range(1, 101):
        clock[0] += 1.0
        show.update(done, f"loss {done}")
    show.done("loss 100")
    lines = out.getvalue().splitlines()
    assert lines[0] == "training  2/100  loss 2  1 min 38 s to go"
    assert lines[1] == "training  17/100  loss 17  1 min 23 s to go"
    assert lines[-1] == "training  done in 1 min 40 s  loss 100"
    assert len(lines) == 1 + (100 - 2) // 15 + 1


def test_a_terminal_sees_one_line_that_changes(clock):
    out = Terminal()
    show = Progress("training", 10, out=out)
    for done in range(1, 11):
        clock[0] += 1.0
        show.update(done)
    show.done()
    text = out.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert text.count("\r") == 9 + 1  # from the second step on, and the end


def test_what_was_done_before_does_not_shorten_the_time_to_go(clock):
    out = io.StringIO()
    show = Progress("training", 100, out=out, start=50)
    clock[0] += 10.0
    show.update(51)
    assert out.getvalue() == "training  51/100    8 min 10 s to go\n"


def test_a_line_that_stands_is_left_in_a_terminal_alone(clock):
    for out, end in ((Terminal(), "\n"), (io.StringIO(), "to go\n")):
        show = Progress("training", 10, out=out)
        show.stop()  # nothing stands there yet
        assert out.getvalue() == ""
        clock[0] += 59.7
        show.update(5)
        assert "1 min 00 s to go" in out.getvalue()
        show.stop()
        assert out.getvalue().endswith(end) and out.getvalue().count("\n") == 1


def test_quiet_prints_nothing(clock):
    out = io.StringIO()
    show = Progress("training", 10, out=out, quiet=True)
    clock[0] += 60.0
    show.update(5)
    show.done()
    assert out.getvalue() == ""
