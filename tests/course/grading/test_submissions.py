"""Hand-ins are found whatever their names, and opened only if nothing in them is hostile."""

import datetime
import os
import re
import stat
import struct
import sys
import zipfile

import pytest

from minipeft.course.grading import submissions
from minipeft.course.grading.submissions import (
    BYTES,
    ENTRIES,
    Person,
    Refused,
    digest,
    found,
    opened,
)

FILE = "minipeft/methods/lora.py"


def zipped(path, entries, **kinds):
    """A zip of (name, text) pairs; kinds: name -> a file mode."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = kinds.get(name, stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, text)
    return path


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# -- found ----------------------------------------------------------------------------------------


def test_folders_and_zips_are_found_by_name(tmp_path):
    (tmp_path / "bob").mkdir()
    zipped(tmp_path / "ann.zip", [("a.py", "")])
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "note.txt").write_text("x")
    assert [(s.name, s.people[0].who) for s in found(tmp_path)] == [
        ("ann", "ann"), ("bob", "bob"), ("note.txt", "note.txt"),
    ]  # fmt: skip


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no submissions in"):
        found(tmp_path)
    with pytest.raises(FileNotFoundError, match="no submissions in"):
        found(tmp_path / "nowhere")


def test_names_are_safe_and_no_two_alike(tmp_path):
    names = ["Ann.zip", "ann", "ANN", "Zoë", "Zoe\u0308", "李雷.zip", "a b\n\x1b[31m", "x" * 200]
    names += ["=1+1", "a/b".replace("/", "\u2215")]
    for name in names:
        (tmp_path / name).mkdir()
    if sys.platform == "linux":
        os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    one, two = found(tmp_path), found(tmp_path)
    assert one == two  # the same in every run
    made = [s.name for s in one]
    assert len({m.casefold() for m in made}) == len(made) == len(list(tmp_path.iterdir()))
    for s in one:
        s.name.encode() and s.people[0].who.encode()
        assert re.fullmatch(r"[\w.+-]+", s.name)
        assert not s.name.startswith((".", "=")) and len(s.name) <= 80
        assert s.people[0].who.isprintable()
    assert {"Zoë", "李雷"} <= set(made)
    notes = [s.note for s in one if s.note]
    assert len(notes) == 3 and all("another submission with the name" in n for n in notes)


def test_a_name_does_not_depend_on_the_neighbours(tmp_path):
    for name in ("b c", "b_c", "b?c"):
        (tmp_path / name).mkdir()
    before = {s.path.name: s.name for s in found(tmp_path)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b*c").mkdir()
    after = {s.path.name: s.name for s in found(tmp_path)}
    assert before.items() <= after.items()


GRADESCOPE = """\
---
submission_101:
  :submitters:
  - :name: Ann Lee
    :sid: '7001'
    :email: ann@example.edu
  - :name: Bob Ray
    :sid: '7002'
    :email: bob@example.edu
  :created_at: 2026-03-02 23:59:30.123456789 Z
  :score: 0.0
  :results:
    :tests:
    - :name: not a student
submission_102:
  :submitters:
  - :name: "Carl"
    :sid:
    :email: carl@example.edu
  :created_at: 2026-03-03T08:00:00.5-08:00
"""


def test_gradescope_tells_names_and_times(tmp_path):
    (tmp_path / "submission_metadata.yml").write_text(GRADESCOPE)
    for n in (101, 102, 103):
        (tmp_path / f"submission_{n}").mkdir()
    ann, carl, unknown = found(tmp_path)
    assert ann.name == "submission_101" and ann.people == (
        Person("Ann Lee", "7001", "ann@example.edu"), Person("Bob Ray", "7002", "bob@example.edu"),
    )  # fmt: skip
    utc = datetime.UTC
    assert ann.at == datetime.datetime(2026, 3, 2, 23, 59, 30, 123456, utc).timestamp()
    assert carl.at == datetime.datetime(2026, 3, 3, 16, 0, 0, 500000, utc).timestamp()
    assert carl.people == (Person("Carl", "", "carl@example.edu"),)
    assert unknown.people == (Person("submission_103"),)


def test_canvas_names_are_read(tmp_path):
    for name in ("leeann_LATE_340934_208490284_hw3.zip", "raybob_334244_39480_hw3_final-1.zip"):
        os.utime(zipped(tmp_path / name, [("a.py", "")]), (5, 1_700_000_000))
    ann, bob = found(tmp_path)
    assert (ann.name, ann.people) == ("leeann", (Person("leeann", "340934"),))
    assert ann.note == "Canvas marks it late" and bob.note == ""
    assert (bob.people, bob.at) == ((Person("raybob", "334244"),), 1_700_000_000)


def test_a_folder_is_as_old_as_its_newest_file(tmp_path):
    for name, at in (("a.py", 1000), ("b/c.py", 2000), ("__pycache__/c.pyc", 9000)):
        file = tmp_path / "ann" / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text("")
        os.utime(file, (at, at))
    assert found(tmp_path)[0].at == 2000


# -- opened ---------------------------------------------------------------------------------------


def test_a_zip_and_a_folder_open_alike(tmp_path):
    entries = [(f"my work/hw3/{FILE}", "x = 1"), ("my work/hw3/Zoë.txt", "ö"), ("my work/", "")]
    entries += [("__MACOSX/x", ""), ("my work/hw3/.venv/lib/numpy.py", "")]
    with opened(zipped(tmp_path / "a.zip", entries)) as folder:
        assert files(folder) == {FILE, "Zoë.txt"} and (folder / FILE).read_text() == "x = 1"
        kept = folder
    assert not kept.exists()
    own = tmp_path / "b" / "hw3" / FILE
    own.parent.mkdir(parents=True)
    own.write_text("x = 1")
    with opened(tmp_path / "b") as folder:
        assert folder == tmp_path / "b" / "hw3"
    lonely = tmp_path / "c" / "minipeft"  # the package itself was handed in, and nothing else
    lonely.mkdir(parents=True)
    with opened(tmp_path / "c") as folder:
        assert folder == tmp_path / "c"


def test_a_zip_alone_in_a_folder_is_meant(tmp_path):
    (tmp_path / "ann").mkdir()
    zipped(tmp_path / "ann" / "hw3.zip", [(FILE, "")])
    with opened(tmp_path / "ann") as folder:
        assert files(folder) == {FILE}


def not_a_zip(path):
    path.write_bytes(b"x = 1\n" * 99)


def damaged(path):
    zipped(path, [("a.py", os.urandom(3000).hex())])
    data = bytearray(path.read_bytes())
    data[300:500] = bytes(200)
    path.write_bytes(data)


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for i in range(9):
            out.writestr(f"{i}.py", bytes(BYTES // 8))
    assert path.stat().st_size < 1 << 20


def lying_bomb(path):
    """One entry that says it is small."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.py", bytes(BYTES + 1))
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        i = data.index(mark)
        data[i + at : i + at + 4] = struct.pack("<I", 100)
    path.write_bytes(data)


def encrypted(path):
    data = bytearray(zipped(path, [("a.py", "x")]).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def of(*names):
    """A zip of files with these names."""
    return lambda path: zipped(path, [(name, "") for name in names])


HOSTILE = {
    "not a zip": (not_a_zip, "is not a zip"),
    "empty file": (lambda p: p.write_bytes(b""), "is not a zip"),
    "damaged": (damaged, "is a damaged zip"),
    "traversal": (of("../../evil.py"), r"\.\./\.\./evil.py would lie outside"),
    "inner traversal": (of("a/../../b"), "would lie outside"),
    "backslashes": (of("..\\evil.py"), "would lie outside"),
    "absolute": (of("/etc/passwd"), "/etc/passwd would lie outside"),
    "drive": (of("C:\\evil.py"), "would lie outside"),
    "link": (lambda p: zipped(p, [("a", "/etc/passwd")], a=stat.S_IFLNK | 0o777), "a is a link"),
    "pipe": (lambda p: zipped(p, [("a", "")], a=stat.S_IFIFO | 0o777), "a is no regular file"),
    "bomb": (bomb, "more than 64 MB together"),
    "lying bomb": (lying_bomb, "is a damaged zip"),
    "10 000 entries": (of(*(f"{i}.py" for i in range(10_000))), "more than 2,000 files"),
    "many passed over": (of(*(f".venv/{i}" for i in range(3_000))), "more than 2,000 files"),
    "password": (encrypted, "has a password"),
    "twice": (of("a.py", "a.py"), "is in it twice"),
    "twice in other letters": (of("\u00e9.py", "E\u0301.py"), "is in it twice"),
    "file and folder": (of("a", "a/b"), "is a damaged zip"),
    "long name": (of("a" * 5000), "is a damaged zip"),
    "too large": (lambda p: p.open("wb").truncate(BYTES + 1), "more than 64 MB"),
    "missing": (lambda p: None, "is not a zip: .*No such file"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.setattr(submissions, "FAR", 2_500)
    make, says = HOSTILE[name]
    path = tmp_path / "in" / "a.zip"
    path.parent.mkdir()
    make(path)
    if path.exists():
        assert digest(path) == digest(path)
    before = set(tmp_path.parent.rglob("*")) if name != "missing" else set()
    with pytest.raises(Refused, match=says) as told, opened(path):
        pass
    assert len(str(told.value)) < 400
    if before:
        assert set(tmp_path.parent.rglob("*")) == before


def test_a_hostile_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match=r"x\.py is a link"), opened(tmp_path / "a"):
        pass
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(Refused, match="b is a link"), opened(tmp_path / "b"):
        pass
    (tmp_path / "c").mkdir()
    for i in range(ENTRIES + 1):
        (tmp_path / "c" / str(i)).touch()
    with pytest.raises(Refused, match="more than 2,000 files"), opened(tmp_path / "c"):
        pass
    (tmp_path / "d").mkdir()
    with (tmp_path / "d" / "big").open("wb") as out:
        out.truncate(BYTES + 1)
    with pytest.raises(Refused, match="more than 64 MB"), opened(tmp_path / "d"):
        pass
    if hasattr(os, "mkfifo"):
        (tmp_path / "e").mkdir()
        os.mkfifo(tmp_path / "e" / "pipe")
        with pytest.raises(Refused, match="pipe is no regular file"), opened(tmp_path / "e"):
            pass
    for name in "abcde":
        digest(tmp_path / name)


def test_the_digest_sees_every_file_and_name(tmp_path):
    seen = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("c/b.py", "2")):
        file = tmp_path / str(len(seen)) / "in" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        seen.add(digest(tmp_path / str(len(seen)) / "in"))
    assert len(seen) == 4
    assert digest(file.parent.parent) in seen
    (file.parent.parent / "__pycache__").mkdir()
    (file.parent.parent / "__pycache__" / "x.pyc").write_text("y")
    assert digest(file.parent.parent) in seen  # running it once is no change


def test_what_is_told_has_no_control_letters(tmp_path):
    zipped(tmp_path / "a.zip", [("\x1b[31m/../x\n", "")])
    with pytest.raises(Refused) as told, opened(tmp_path / "a.zip"):
        pass
    assert str(told.value).isprintable()
    assert submissions.BYTES > 1 << 20
