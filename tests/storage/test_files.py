"""Where a file is written: links, modes, what is in the way, and what a killed writer left."""

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from minipeft.storage.files import (
    UNFINISHED,
    cache_dir,
    check_writable,
    data_dir,
    sweep,
    write_atomic,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="posix: links, pipes and modes")


def write(path, text):
    write_atomic(path, lambda temporary: temporary.write_text(text))


@posix
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    file, link, second = tmp_path / "far" / "model", tmp_path / "link", tmp_path / "second"
    file.write_text("old")
    link.symlink_to(os.path.join("far", "model"))
    second.symlink_to("link")
    write(second, "new")
    assert link.is_symlink() and second.is_symlink() and file.read_text() == "new"
    assert [f.name for f in (tmp_path / "far").iterdir()] == ["model"]
    new = tmp_path / "new"
    new.symlink_to(os.path.join("far", "other"))  # leads to nothing yet
    write(new, "first")
    assert new.is_symlink() and (tmp_path / "far" / "other").read_text() == "first"


@posix
def test_a_failure_through_a_link_leaves_both_ends(tmp_path):
    file, link = tmp_path / "model", tmp_path / "link"
    file.write_text("old")
    link.symlink_to("model")

    def fail(temporary):
        temporary.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomic(link, fail)
    assert link.is_symlink() and file.read_text() == "old"
    assert {f.name for f in tmp_path.iterdir()} == {"model", "link"}


@posix
@pytest.mark.parametrize("act", [lambda path: write(path, "x"), check_writable])
def test_what_is_no_regular_file_is_refused_by_name(act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("x")
    os.mkfifo("pipe")
    (tmp_path / "to pipe").symlink_to("pipe")
    for a, b in (("one", "other"), ("other", "one")):
        (tmp_path / a).symlink_to(b)
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.close()
    for path, wanted in {
        "folder": "it is a folder; name a file in it",
        "folder/": "it is a folder",
        "": "it is a folder",
        "pipe": "it is a pipe, no regular file",
        "to pipe": "it is a pipe, no regular file",
        "socket": "it is a socket, no regular file",
        "/dev/null": "it is a device, no regular file",
        "one": "its links lead in a circle",
        "none/file": "none does not exist",
        "text/file": "text is no folder",
    }.items():
        with pytest.raises(OSError, match=wanted) as caught:
            act(path)
        assert str(caught.value).startswith(f"cannot write {path}: ")
    assert stat.S_ISFIFO(os.stat("pipe").st_mode) and (tmp_path / "text").read_text() == "x"
    assert not [f for f in os.listdir() if f.endswith(UNFINISHED)]


@posix
def test_a_file_keeps_its_mode_and_a_new_one_has_any_new_files(tmp_path):
    file = tmp_path / "a"
    for mode in (0o600, 0o640, 0o664, 0o755):
        file.touch()
        file.chmod(mode)
        write(file, "x")
        assert stat.S_IMODE(file.stat().st_mode) == mode
    write(tmp_path / "b", "x")
    (tmp_path / "c").touch()
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "c").stat().st_mode


@posix
def test_a_protected_file_is_refused_as_open_would(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("kept")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may do anything
    for act in (lambda path: write(path, "x"), check_writable):
        with pytest.raises(PermissionError, match="cannot write .*a: the file is write-protected"):
            act(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "kept"


def test_a_folder_that_takes_no_file_is_told_before(tmp_path, monkeypatch):
    check_writable(tmp_path / "a")
    assert not list(tmp_path.iterdir())  # to look leaves nothing behind

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(PermissionError, match="cannot write .*a: Permission denied in the folder"):
        check_writable(tmp_path / "a")


def test_what_a_killed_writer_left_is_removed_at_the_next_save(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for mark in (f"{dead.pid}-0123abcd", "0123abcd", f"{10**30}-0", f"{os.getpid()}-01"):
        (tmp_path / f".a.{mark}{UNFINISHED}").write_text("half")
    others = {f".b.{dead.pid}-0123abcd{UNFINISHED}", ".a.txt", "a.tmp"}
    for name in others:
        (tmp_path / name).write_text("of someone else")
    write(tmp_path / "a", "whole")
    assert {f.name for f in tmp_path.iterdir()} == others | {"a"}


@posix
def test_what_still_is_written_is_left_alone(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = tmp_path / f".a.{other.pid}-0123abcd{UNFINISHED}"
    theirs.write_text("half")
    try:
        write(tmp_path / "a", "whole")
        assert theirs.exists()
    finally:
        other.communicate(b"\n")
    sweep(tmp_path / "a")
    assert not theirs.exists()


@posix
def test_what_another_user_writes_is_left_alone(tmp_path, monkeypatch):
    def refuse(number, signal):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    theirs = tmp_path / f".a.12345-0123abcd{UNFINISHED}"
    theirs.write_text("half")
    write(tmp_path / "a", "whole")
    assert theirs.exists()


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    own, other = (tmp_path / f".{name}.0123abcd{UNFINISHED}" for name in ("a[1]", "a1"))
    for left in (own, other):
        left.write_text("half")
    write(tmp_path / "a[1]", "whole")
    assert other.exists() and not own.exists()


def test_two_threads_may_write_one_file(tmp_path):
    both = threading.Barrier(2)

    done = []

    def slow(text):
        def fill(temporary):
            temporary.write_text(text)
            both.wait(10)  # the other one has begun, and has swept

        write_atomic(tmp_path / "a", fill)
        done.append(text)  # an error in a thread fails no test

    threads = [threading.Thread(target=slow, args=(text,)) for text in ("one", "two")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(done) == ["one", "two"] and (tmp_path / "a").read_text() in done
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_the_folders_are_those_that_the_variables_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("MINIPEFT_CACHE", "")  # set to nothing: as if it were not
    assert cache_dir().parts[-2:] == (".cache", "minipeft")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="MINIPEFT_DATA names .*file', which is not a f"):
        data_dir()
