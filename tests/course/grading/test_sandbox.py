"""What a student's code cannot do to the grader (attacks.py), and that the grader goes on."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minipeft.course.grading import sandbox
from minipeft.course.grading.sandbox import Child, Failed, Limits, protections
from minipeft.course.homework import kit
from tests.course.grading.attacks import ATTACKS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="posix: attacks of Unix processes")

CHECKOUT = Path(__file__).parents[3]
LIMITS = Limits(seconds=20.0, total=300.0, files=2 << 20)
SECRET = "the wanted results are 42 and 43"
X = np.arange(6.0).reshape(2, 3)


def tree(folder, text):
    """A student's tree with this adapters.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapters.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the grader's secret, two submissions, and an installed package."""
    room = tmp_path_factory.mktemp("grader")
    (room / "secret").write_text(SECRET)
    tree(room / "installed" / "torch", "")
    (room / "installed" / "torch" / "__init__.py").write_text("def twice(x): return 2 * x\n")
    tree(room / "other", "the work of another student\n")
    mine = tree(room / "mine", Path(__file__).with_name("attacks.py").read_text())
    (mine / "tests").mkdir()
    (mine / "tests" / "wanted").write_text(SECRET)
    (mine / "link").symlink_to(room / "secret")
    return room


@pytest.fixture(scope="module")
def children(place):
    """One process for the attacks that leave it as it was, one with little time."""
    quick = replace(LIMITS, seconds=0.5)
    with Child(place / "mine", LIMITS) as child, Child(place / "mine", quick) as other:
        yield child, other


def verdict(child, place, case):
    """(right, wrong or how it failed, the message) of one call."""
    there = {name: str(place / name) for name in ("secret", "other", "new")}
    there |= {"packages": str(place / "installed"), "library": str(CHECKOUT)}
    try:
        got = child.call(case, {"x": X, **there})
    except Failed as failed:
        return failed.kind, failed.text
    message = kit.compare(got, {"y": 2 * X})
    return ("wrong" if message else "right"), message


def needs(protection):
    if why := protection and protections()[protection]:
        pytest.skip(f"sandbox: {why}")


SOME = list(ATTACKS)[::4]  # the others are long forms


@pytest.mark.parametrize(
    "name", [n if n in SOME else pytest.param(n, marks=pytest.mark.full) for n in ATTACKS]
)
def test_attack(name, place, children):
    verdicts, protection, spoils, says = ATTACKS[name]
    needs(protection)
    child = Child(place / "mine", LIMITS) if spoils else children[verdicts == ["time"]]
    try:
        got, text = verdict(child, place, name)
        assert got in verdicts, text
        assert says in text
        assert SECRET[:10] not in text
        assert text.isprintable() and len(text) < 1200
        if not spoils and verdicts != ["right"]:  # the next is judged as if nothing had been
            assert verdict(child, place, "right") == ("right", "")
    finally:
        if spoils:
            child.close()
    assert (place / "secret").read_text() == SECRET
    assert (place / "secret").stat().st_mode & 0o777 != 0o777
    assert not (place / "new").exists()


# --- the limits and the protections ---------------------------------------------------------------


def test_protections_are_named_and_have_reasons():
    names = "time memory disk processes reading user orphans network"
    assert set(protections()) == {*names.split(), "other processes"}
    assert all(isinstance(why, str) and why.isprintable() for why in protections().values())


def test_all_calls_together_have_a_limit(tmp_path):
    text = "import time\ndef f(): time.sleep(9)\ndef g(): return {}\n"
    with Child(tree(tmp_path / "a", text), Limits(seconds=0.4, total=0.6)) as child:
        began = time.monotonic()
        for says in ("0.4 seconds", "seconds", "of all calls are used up"):
            with pytest.raises(Failed, match=f"time: .*{says}"):
                child.call("f", {})
        with pytest.raises(Failed, match="used up"):
            child.call("g", {})
        assert child.spent < 5 and time.monotonic() - began < 20


def test_a_tree_is_copied_without_links_tests_and_devices(tmp_path):
    mine = tree(tmp_path / "mine", "import os\ndef f(): return {'files': ' '.join(seen())}\n")
    with open(mine / "adapters.py", "a") as file:
        file.write("def seen(): return sorted(n for _, *b in os.walk(os.path.dirname(__file__)) "
                   "for part in b for n in part)\n")  # fmt: skip
    for name in ("tests", "package", "package/__pycache__", "package/tests", ".git"):
        (mine / name).mkdir()
        (mine / name / (name.replace("/", "-") + ".txt")).write_text("a")
    os.mkfifo(mine / "fifo")
    (mine / "out").symlink_to(tmp_path)
    (mine / "loop").symlink_to(mine)
    with Child(mine, LIMITS) as child:
        assert child.call("f", {}) == {"files": "adapters.py package package.txt"}


def test_a_tree_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "TREE", 1 << 16)
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    (tree(tmp_path / "mine", "") / "large").write_bytes(bytes(1 << 17))
    with pytest.raises(Failed, match="disk"):
        Child(tmp_path / "mine", LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_all_sorts_of_inputs_arrive(tmp_path):
    text = "import numpy as np\ndef f(**inputs): return {'y': repr(sorted(inputs.items()))}\n"
    inputs = {"a": np.arange(3), "b": 1.5, "c": "text", "d": True, "e": np.zeros((0, 2))}
    with Child(tree(tmp_path / "a", text), LIMITS) as child:
        assert child.call("f", inputs)["y"] == repr(sorted(inputs.items()))


def test_an_unknown_case_and_a_tree_without_code_are_errors(tmp_path):
    with Child(tree(tmp_path / "a", "f = 3\n"), LIMITS) as child:
        for case in ("f", "g"):
            with pytest.raises(Failed, match=f"error: .*adapters.py has no function {case}"):
                child.call(case, {})
    for text, says in (("def f(:", "SyntaxError"), ("import torch", "No module named 'torch'")):
        with Child(tree(tmp_path / "a", text), LIMITS) as child:
            with pytest.raises(Failed, match=f"error: .*{says}"):
                child.call("f", {})
    (tmp_path / "a" / "adapters.py").unlink()
    with Child(tmp_path / "a", LIMITS) as child:
        with pytest.raises(Failed, match="error: .*No module named 'adapters'"):
            child.call("f", {})


def test_a_message_says_where_it_happened(tmp_path):
    mine = tree(tmp_path / "a", "from part.inner import g\ndef f(): return g()\n")
    (mine / "part").mkdir()
    (mine / "part" / "inner.py").write_text("def g():\n\n    return 1 / 0\n")
    with Child(mine, LIMITS) as child, pytest.raises(Failed) as caught:
        child.call("f", {})
    assert (
        caught.value.text
        == f"ZeroDivisionError: division by zero ({Path('part/inner.py')}, line 3)"
    )


def test_a_child_that_does_not_start_is_the_graders_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "CHILD", tmp_path / "nothing.py")
    with Child(tree(tmp_path / "a", ""), LIMITS) as child:
        with pytest.raises(RuntimeError, match="does not start"):
            child.call("f", {})


def test_a_closed_child_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    mine = tree(tmp_path / "mine", "def f():\n    open('a', 'w').close()\n    return {}\n")
    with Child(mine, LIMITS) as child:
        assert child.call("f", {}) == {}
        pid = child._process.pid
        assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_ends_with_its_grader(tmp_path):
    needs("orphans")
    text = "import os\ndef f(): return {'pid': os.getpid()}\ndef g():\n    while True: pass\n"
    grader = "\n".join([
        "import sys",
        "from minipeft.course.grading.sandbox import Child, Limits",
        "child = Child(sys.argv[1], Limits())",
        "print(child.call('f', {})['pid'], flush=True)",
        "child.call('g', {})",
    ])  # fmt: skip
    mine = tree(tmp_path / "a", text)
    with subprocess.Popen(
        [sys.executable, "-c", grader, mine], stdout=subprocess.PIPE, cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:  # fmt: skip
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(pid)


def alive(pid):
    try:
        os.kill(pid, 0)
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_start_is_cheap(tmp_path):
    times, text = [], "import time\ndef f(): return {'t': time.process_time()}\n"
    with Child(tree(tmp_path / "a", text)) as c:
        for _ in range(3):
            times.append(c.call("f", {})["t"])
            c._end()
    assert min(times) < 0.3  # seconds of the processor, 0.1 where nothing else runs


@pytest.mark.parametrize(
    ("part", "attack", "got", "says"),
    [
        ("landlock", "reads_the_tests", "wrong", "got a str"),
        ("landlock", "imports_it_from_its_folder", "right", ""),
        ("landlock", "writes_into_its_tree", "error", "dict of arrays"),
        ("seccomp", "opens_a_socket", "error", "dict of arrays"),
        ("seccomp", "makes_a_namespace", "error", "dict of arrays"),
        ("bounds", "one_large_file", "disk", "more than 2 MB"),
    ],
)
def test_it_is_the_protection_that_stops_it(part, attack, got, says, place, tmp_path, monkeypatch):
    needs(ATTACKS[attack][1])
    changed(f"def {part}(*args): return {OFF[part]}", tmp_path, monkeypatch)
    monkeypatch.setattr(sandbox, "unprivileged", lambda room: (None, "it is off in this test"))
    with Child(place / "mine", LIMITS) as child:
        verdict_, message = verdict(child, place, attack)
    assert verdict_ == got and says in message


OFF = {"landlock": "''", "seccomp": "''", "bounds": "dict.fromkeys(('disk', 'processes'), '')"}


def changed(line, folder, monkeypatch):
    """Use a child.py with one line more, before it begins."""
    text = sandbox.CHILD.read_text().replace("\nif __name__", f"\n{line}\n\nif __name__")
    assert line in text
    child, beside = folder / "grading" / "child.py", folder / "homework" / "kit.py"
    for file, content in ((child, text), (beside, Path(kit.__file__).read_text())):
        file.parent.mkdir()
        file.write_text(content)
    monkeypatch.setattr(sandbox, "CHILD", child)


@pytest.mark.full
def test_a_machine_that_has_nothing_of_it_says_so_and_grades(place, tmp_path, monkeypatch):
    changed("resource = None; sys.platform = 'other'; del os.geteuid", tmp_path, monkeypatch)
    with Child(place / "mine", replace(LIMITS, seconds=2.0)) as child:
        assert verdict(child, place, "right") == ("right", "")
        on = {name for name, why in child.protections.items() if not why}
        assert {"time"} <= on <= {"time", "user", "other processes"}  # those of another user
        assert "has no RLIMIT_AS" in child.protections["memory"]
        for attack in ("loops", "exits_at_once", "many_files", "floods_the_pipe", "a_forged_result",
                       "imports_what_is_installed", "leaves_a_thread_behind"):  # fmt: skip
            got, _ = verdict(child, place, attack)
            assert got in ATTACKS[attack][0]
            assert verdict(child, place, "right") == ("right", "")
        began = time.monotonic()  # a process that got away holds the pipe open for 5 seconds
        assert verdict(child, place, "hands_the_pipe_on")[0] == "time"
        assert verdict(child, place, "right") == ("right", "") and time.monotonic() - began < 5


@pytest.mark.parametrize(
    "abi", [1, *(pytest.param(n, marks=pytest.mark.full) for n in range(2, 7))]
)
def test_older_kernels_have_fewer_rules(abi, place, tmp_path, monkeypatch):
    needs("reading")
    older = "type('Older', (), {'prctl': libc.prctl, 'syscall': lambda s, n, a, *b: "
    older += f"min({abi}, libc.syscall(n, a, *b)) if a is None else libc.syscall(n, a, *b)}})()"
    line = f"now = landlock\ndef landlock(libc, told): return now({older}, told)"
    changed(line, tmp_path, monkeypatch)
    with Child(place / "mine", LIMITS) as child:
        for attack in ("reads_the_tests", "writes_elsewhere", "removes_a_file", "cuts_a_file"):
            assert verdict(child, place, attack)[0] == "error"
        for attack in ("right", "writes_files_of_its_own", "uses_the_library_of_python"):
            assert verdict(child, place, attack) == ("right", "")
        assert not child.protections["reading"]
