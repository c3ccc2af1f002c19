"""Nothing is lost: what can fail is tried first, results are printed before figures, any terminal
gets them, and no command is silent for long."""

import io
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from minipeft import cli
from minipeft.cli import heartbeat
from minipeft.cli.arguments import target
from minipeft.cli.heartbeat import Heartbeat
from tests.clitools import QUICK, fails, small_base, tell, value  # noqa: F401


class TooLateError(Exception):
    """Work had begun."""


@pytest.fixture
def no_work(monkeypatch):
    """Every kind of work raises."""

    def too_late(*_, **__):
        raise TooLateError

    for name in ("training.loop.fit", "training.evaluation.evaluate", "course.compare.compare",
                 "corpus.pretraining.pretrain", "corpus.pretraining.train_tokenizer",
                 "methods.load_adapter"):  # fmt: skip
        monkeypatch.setattr(f"minipeft.{name}", too_late)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("finetune --save {tmp}", "it is a folder; name a file in it"),
        ("finetune --save {tmp}/new/", "names a folder"),
        ("finetune --save ''", "--save needs the name of a file, got ''"),
        ("finetune --save {file}/a.safetensors", "the folder {file} cannot be made"),
        ("finetune --n 100000", "n must be an integer from 1 to 10000, got 100000"),
        ("finetune --model tiny-vit --n 801", "has 800 pictures in the split 'train', got n=801"),
        ("finetune --eval 100000", "n must be an integer from 1 to 10000, got 100000"),
        ("finetune --pattern 4", "task 'sentiment' has patterns 0 to 3, got 4"),
        ("finetune --model tiny-vit --pattern 1", "has pattern 0 alone, got 1"),
        ("finetune --set targets=nothing", "Did you mean"),
        ("finetune --task truth --head linear", "the same options in every example"),
        ("finetune --model {model} --save {model}", "the file of the model itself"),
        ("finetune --data {data} --save {data}", "the file of the data itself"),
        ("finetune --data {data} --checkpoint {data}", "the file of the data itself"),
        ("finetune --model {file}", "file is not a whole safetensors file"),
        ("compare --figure {tmp}/a.xyz", "its name must end in one of .avif"),
        ("compare --figure {tmp}/a", "its name must end in one of"),
        ("compare --figure {tmp}", "it is a folder"),
        ("compare --figure ''", "--figure needs the name of a file"),
        ("compare --n 100000", "n must be an integer from 1 to 10000"),
        ("compare --task e2e --path {tmp}", "Looked in: {tmp}"),
        ("pretrain tiny-gpt --out {tmp}", "it is a folder"),
        ("pretrain tokenizer --out ''", "--out needs the name of a file"),
        ("pretrain tiny-gpt --out {tmp}/m --checkpoint {tmp}", "it is a folder"),
        ("pretrain tiny-gpt --out {file} --checkpoint {file}", "the file of the out itself"),
        ("pretrain tiny-gpt --out {tmp}/m --checkpoint {tmp}/m", "the file of the out itself"),
        ("pretrain tiny-gpt --out {tmp}/m --checkpoint {tmp}/x/../m", "the file of the out itself"),
        ("merge {file} --out ''", "--out needs the name of a file"),
        ("merge {file} --out {tmp}", "it is a folder"),
        ("merge {file} --out {file}", "the file of the adapter itself, which would be lost"),
        ("evaluate --pattern 4", "task 'sentiment' has patterns 0 to 3, got 4"),
        ("evaluate --split tst", "did you mean 'test'"),
        ("evaluate --n 100000", "n must be an integer from 1 to 10000"),
    ],
)
def test_it_is_found_before_any_work(capsys, tmp_path, small_base, line, told):  # noqa: F811
    file, data = tmp_path / "file", tmp_path / "rows.csv"
    file.write_text("precious")
    data.write_text("prompt,target\na,b\nc,d\ne,f\n")
    model = small_base / "models" / "tiny-gpt.safetensors"
    places = {"tmp": tmp_path, "file": file, "model": model, "data": data}
    words = [word.format(**places).replace("''", "") for word in line.split()]
    before = sorted(p.name for p in tmp_path.iterdir())
    code = (
        2 if "needs the" in told or "names a" in told or "itself" in told or "same" in told else 1
    )
    assert told.format(**places) in fails(capsys, code, *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == before and file.read_text() == "precious"


def test_a_merge_never_overwrites_what_it_is_made_of(capsys, tmp_path, small_base):  # noqa: F811
    adapter = tmp_path / "a.safetensors"
    tell(capsys, "finetune", *QUICK, "--eval", "2", "--save", str(adapter))
    (tmp_path / "link").symlink_to(adapter)
    os.link(adapter, tmp_path / "hard")
    base = small_base / "models" / "tiny-gpt.safetensors"
    (tmp_path / "base").symlink_to(base)
    kept = adapter.read_bytes(), base.read_bytes()
    for spelt in (adapter, tmp_path / ".." / tmp_path.name / "a.safetensors", tmp_path / "link",
                  tmp_path / "hard"):  # fmt: skip
        told = fails(capsys, 2, "merge", str(adapter), "--out", str(spelt))
        assert "the file of the adapter itself" in told
    assert "adapter itself" in fails(capsys, 2, "merge", str(tmp_path / "link"), "--out",
                                     str(adapter))  # fmt: skip
    for spelt in (base, tmp_path / "base"):
        told = fails(capsys, 2, "merge", str(adapter), "--out", str(spelt))
        assert "the file of the base model itself" in told
    assert kept == (adapter.read_bytes(), base.read_bytes())


# -- a result is printed before anything else can fail --------------------------------------------

ROW = {"method": "lora", "trainable": 8, "percent": 1.0, "score_mean": 1.0, "score_std": 0.0,
       "steps_to_95": None, "each": {}, "step_seconds": 0.0, "peak_bytes": 1,
       "forgetting": float("nan")}  # fmt: skip


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_figure_that_fails_loses_no_table(capsys, tmp_path, monkeypatch, form):
    from minipeft.course import compare, viz

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(compare, "compare", lambda *a, **k: [ROW])
    monkeypatch.setattr(viz, "save", fail)
    assert cli.main(["compare", "--n", "8", "--figure", str(tmp_path / "a.png"), *form]) == 1
    out, err = capsys.readouterr()
    assert "no ink" in err
    if form:
        (row,) = json.loads(out)
        assert row["method"] == "lora" and row["forgetting"] is None  # not finite: JSON has no nan
    else:
        assert out.splitlines()[-1].startswith("lora")


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyError("no 'x' here"), "no 'x' here"), (KeyError(), "no message"),
     (ValueError(), "no message"), (ValueError("\u00b1 and\nmore"), "? and\nmore")],
)  # fmt: skip
def test_an_error_is_told_in_its_own_words_on_any_terminal(monkeypatch, error, told):
    def fail(**_):
        raise error

    monkeypatch.setattr(sys.modules["minipeft.course.diagnosis"], "doctor", fail)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")  # strict, as a pipe may be
    monkeypatch.setattr(sys, "stderr", screen)
    assert cli.main(["doctor"]) == 1
    screen.flush()
    assert screen.buffer.getvalue().decode() == f"minipeft doctor: {told}\n"


def test_numpys_values_are_plain_in_json():
    found = cli._plain({"a": np.float32(0.5), 1: (np.array([1.0, np.inf]), np.int64(3))})
    assert found == {"a": 0.5, "1": [[1.0, None], 3]} and type(found["1"][1]) is int


def test_the_folders_of_a_file_are_made(tmp_path):
    file = target(str(tmp_path / "a" / "b" / "c.safetensors"), "--save")
    assert file.parent.is_dir() and not file.exists()


# -- terminals ------------------------------------------------------------------------------------

TOLD = """
doctor; data; data fetch; data cells --n 1; params --paper; params --model gpt2 --method lora;
memory --batch 2; inspect tiny-gpt; lectures; evaluate --n 4; generate ä±€ --max-tokens 3; --help;
finetune --help; finetune --steps 2 --n 8 --eval 2 --save a.safetensors; inspect a.safetensors;
merge a.safetensors --out m.safetensors; generate é --adapter a.safetensors; compare --seeds 2;
finetune --data ü.csv --steps 2
"""


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(e, marks=pytest.mark.full) for e in ("cp1252", "cp437"))]
)
def test_every_command_tells_its_result_in_every_encoding(tmp_path, monkeypatch, encoding):
    from minipeft.course import compare

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "compare", lambda *a, **k: [ROW | {"trainable": 5}])
    rows = "prompt,target\n" + "".join(f"é{i} ™,€{i}\n" for i in range(12))
    (tmp_path / "ü.csv").write_text(rows, encoding="utf-8")
    for line in TOLD.split(";"):
        for form in ([], ["--json"]):
            if "--help" in line and form:
                continue
            streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", streams[0])
                patch.setattr(sys, "stderr", streams[1])
                try:
                    code = cli.main([*line.split(), *form])
                except SystemExit as stop:  # argparse
                    code = stop.code
            out, err = (stream.buffer.getvalue() for stream in streams if not stream.flush())
            assert code == 0 and out.strip(), (line, err)
            if form:
                json.loads(out)


def test_a_terminal_of_ascii_gets_question_marks_and_the_exit_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "minipeft", "generate", "± é", "--max-tokens", "2"],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii",
                                  "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith(b"? ?")


# -- silence --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def still(monkeypatch):
    """still(stream): a heartbeat over it without its thread, and a clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Heartbeat, "_listen", lambda self: None)

    def make(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return Heartbeat("minipeft x"), now

    return make


def after(heart, now, seconds):
    """The clock moves, and the heartbeat looks at it every tick."""
    for _ in range(round(seconds / 0.2)):
        now[0] += 0.2
        heart.beat()


def test_a_log_hears_of_silence_within_two_seconds_and_then_now_and_then(still):
    log = io.StringIO()
    heart, now = still(log)
    with heart:
        after(heart, now, 2)
        assert log.getvalue() == "minipeft x, 2 s\n"
        after(heart, now, 28)
        assert log.getvalue().count("\n") == 2
        heart.busy("scoring")
        after(heart, now, 2)
        assert log.getvalue().endswith("scoring, 2 s\n")


def test_what_is_printed_puts_it_off(still, capsys):
    log = io.StringIO()
    heart, now = still(log)
    with heart:
        for _ in range(5):
            after(heart, now, 1.4)
            print("a line")
            heart.patience = heartbeat.FIRST
        assert log.getvalue() == ""
    assert capsys.readouterr().out == "a line\n" * 5


def test_a_terminal_sees_one_line_that_goes_when_something_is_printed(still, capsys):
    screen = Terminal()
    heart, now = still(screen)
    with heart:
        after(heart, now, 4)
        assert screen.getvalue().count("\r") == 3 and "\n" not in screen.getvalue()
        print("result")
        assert screen.getvalue().endswith(f"\r{'':78}\r")
        after(heart, now, 2)
    assert screen.getvalue().endswith(f"\r{'':78}\r")
    assert capsys.readouterr().out == "result\n" and sys.stderr is screen


def test_a_command_that_works_in_silence_is_heard(capsys, monkeypatch):
    doctor = sys.modules["minipeft.course.diagnosis"]  # the package's own name is the function
    real = doctor.doctor
    monkeypatch.setattr(heartbeat, "FIRST", 0.2)
    monkeypatch.setattr(heartbeat, "TICK", 0.05)
    begun = threading.active_count()

    def slow(**options):
        time.sleep(0.6)
        return real(**options)

    monkeypatch.setattr(doctor, "doctor", slow)
    assert cli.main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("minipeft doctor, 0 s\n") and json.loads(out)["problems"] == []
    assert threading.active_count() == begun


def test_the_text_of_pretraining_is_counted_as_it_is_made(monkeypatch, capsys):
    from minipeft.corpus import pretraining as pretrain
    from minipeft.display import progress
    from minipeft.world.town import World

    ticks = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))
    pretrain._texts(World(0), 0, "train", 0.02, quiet=False)
    out = capsys.readouterr().out
    assert out.startswith("making text, kB  ") and "/20  " in out
