"""Fetching: from a server of our own, never from the network; what is not right is not kept."""

import gzip
import hashlib
import io
import itertools
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minipeft import cli
from minipeft.storage import fetch
from minipeft.storage.fetch import FetchError, PublicFile, PublicSet

CONTENT = bytes(range(256)) * 300
SUM = hashlib.sha256(CONTENT).hexdigest()
PAGES = {  # path: (status, what is sent, the length that is told or None)
    "/good/a.bin": (200, CONTENT, len(CONTENT)),
    "/good/b.gz": (200, gzip.compress(CONTENT, 9), None),
    "/other packing/b.gz": (200, gzip.compress(CONTENT, 1, mtime=5), None),
    "/changed/a.bin": (200, CONTENT[:-1] + b"x", len(CONTENT)),
    "/short/a.bin": (200, CONTENT[:1000], len(CONTENT)),
    "/long/a.bin": (200, CONTENT * 2, None),
    "/empty/a.bin": (200, b"", 0),
    "/page/a.bin": (200, b"<html>log in first</html>", None),
    "/page/b.gz": (200, b"<html>log in first</html>", None),
    "/cut/b.gz": (200, gzip.compress(CONTENT, 9)[:-20], None),
    "/bomb/b.gz": (200, gzip.compress(CONTENT + bytes(10**7), 9), None),
    "/refused/a.bin": (403, b"no", 2),
    "/slow/a.bin": (200, None, 100),
    "/torn/b.gz": (200, gzip.compress(CONTENT, 9)[:10] + b"\xff" * 99, None),
    "/no http/a.bin": (None, b"220 mail is welcome here\r\n", None),
}


class Pages(BaseHTTPRequestHandler):
    """Sends what PAGES says."""

    def do_GET(self):
        self.server.asked.append(self.path)
        status, sent, length = PAGES.get(self.path.replace("%20", " "), (404, b"", 0))
        if status is None:  # no answer of a web server
            self.wfile.write(sent)
            return
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if sent is None:
            self.server.stop.wait(10)
        else:
            self.wfile.write(sent)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as made:
        made.stop, made.asked = threading.Event(), []
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.stop.set()
        made.shutdown()
        thread.join()


@pytest.fixture
def sets(server, monkeypatch):
    """sets("good", name="a.bin") is a set of one file, to be had there."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.asked.clear()

    def of(*homes, name="a.bin"):
        base = f"http://127.0.0.1:{server.server_port}"
        file = PublicFile(name, len(CONTENT), SUM)
        made = PublicSet("some", "bytes", "none", tuple(f"{base}/{h}/" for h in homes), (file,))
        monkeypatch.setattr(fetch, "SETS", {"some": made})

    return of


def test_a_file_arrives_whole_and_once(sets, server, tmp_path):
    sets("good")
    folder = tmp_path / "new" / "folder"
    (row,) = fetch.fetch("some", folder, quiet=True)
    assert row == {"file": str(folder / "a.bin"), "bytes": len(CONTENT), "fetched": True}
    assert (folder / "a.bin").read_bytes() == CONTENT
    (row,) = fetch.fetch("some", folder, quiet=True)
    assert row["fetched"] is False and server.asked == ["/good/a.bin"]


@pytest.mark.parametrize("home", ["good", "other%20packing"])
def test_packed_files_are_judged_by_their_content(sets, tmp_path, home):
    sets(home, name="b.gz")
    (row,) = fetch.fetch("some", tmp_path, quiet=True)
    assert row["bytes"] == (tmp_path / "b.gz").stat().st_size < len(CONTENT)
    assert gzip.decompress((tmp_path / "b.gz").read_bytes()) == CONTENT


@pytest.mark.parametrize(
    ("home", "name", "told"),
    [
        ("changed", "a.bin", "its SHA-256 is "),
        ("short", "a.bin", "the connection ended after 1,000 of 76,800 bytes"),
        ("long", "a.bin", "it sends more than 80,896 bytes"),
        ("empty", "a.bin", "its SHA-256 is e3b0c44298fc…, wanted " + SUM[:12]),
        ("page", "a.bin", "its SHA-256 is "),
        ("page", "b.gz", "it cannot be unpacked (Not a gzipped file"),
        ("cut", "b.gz", "it cannot be unpacked (Compressed file ended"),
        ("torn", "b.gz", "it cannot be unpacked (Error -3"),
        ("no%20http", "a.bin", "220 mail is welcome here"),
        ("bomb", "b.gz", "it holds more than the 76,800 bytes"),
        ("refused", "a.bin", "HTTP Error 403"),
        ("nowhere", "a.bin", "HTTP Error 404"),
    ],
)
def test_what_is_not_right_is_not_kept(sets, tmp_path, home, name, told):
    sets(home, name=name)
    with pytest.raises(FetchError) as caught:
        fetch.fetch("some", tmp_path, quiet=True)
    said = str(caught.value)
    assert said.startswith(f"could not fetch {name}\n  http://127.0.0.1:") and told in said
    assert f"put the file there by other means: {tmp_path / name}" in said
    assert os.listdir(tmp_path) == []


def test_a_home_that_says_nothing_is_left(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SECONDS", 0.2)
    sets("slow", "good")
    began = time.monotonic()
    assert fetch.fetch("some", tmp_path, quiet=True)[0]["fetched"]
    assert time.monotonic() - began < 5


def test_the_next_home_is_tried(sets, server, tmp_path):
    sets("changed", "refused", "good")
    assert fetch.fetch("some", tmp_path, quiet=True)[0]["fetched"]
    assert server.asked == ["/changed/a.bin", "/refused/a.bin", "/good/a.bin"]
    assert os.listdir(tmp_path) == ["a.bin"]


def test_every_home_that_failed_is_named_with_its_reason(sets, tmp_path):
    sets("changed", "refused")
    with pytest.raises(FetchError) as caught:
        fetch.fetch("some", tmp_path, quiet=True)
    told = str(caught.value)
    assert "/changed/a.bin: its SHA-256" in told and "/refused/a.bin: HTTP Error 403" in told


def test_without_a_network_it_says_so(sets, server, tmp_path, monkeypatch):
    sets("good")
    (home,) = fetch.SETS["some"].homes
    away = home.replace(str(server.server_port), "9")  # discard: nobody listens
    monkeypatch.setitem(fetch.SETS, "some", PublicSet(
        "some", "", "", (away,), fetch.SETS["some"].files))  # fmt: skip
    with pytest.raises(FetchError, match=r"refused(.|\n)*Without a network, put the file there"):
        fetch.fetch("some", tmp_path, quiet=True)
    assert os.listdir(tmp_path) == []


def test_another_file_in_the_way_is_never_overwritten(sets, server, tmp_path):
    sets("good")
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(FetchError, match="a.bin is in the way: its SHA-256 .*Move it away"):
        fetch.fetch("some", tmp_path, quiet=True)
    assert (tmp_path / "a.bin").read_bytes() == b"mine" and server.asked == []


def test_it_tells_how_far_it_is(sets, tmp_path, monkeypatch):
    sets("good")
    monkeypatch.setattr(time, "monotonic", itertools.count(0, 60).__next__)
    out = io.StringIO()
    fetch.fetch("some", tmp_path, out=out)
    assert "a.bin, kB  65/76" in out.getvalue() and "done in" in out.getvalue()
    silent = io.StringIO()
    fetch.fetch("some", tmp_path / "again", out=silent, quiet=True)
    assert silent.getvalue() == ""


def test_names_and_default_folder(sets, tmp_path, monkeypatch):
    sets("good")
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    (row,) = fetch.fetch("some", quiet=True)
    assert row["file"] == str(tmp_path / "cache" / "some" / "a.bin")
    with pytest.raises(ValueError, match="no published set 'sme'; there are some"):
        fetch.fetch("sme")


def test_the_command(sets, tmp_path, capsys):
    sets("good")
    assert cli.main(["data", "fetch", "some", "--path", str(tmp_path)]) == 0
    assert "a.bin: 76,800 bytes, fetched, checked" in capsys.readouterr().out
    assert cli.main(["data", "fetch", "some", "--path", str(tmp_path)]) == 0
    assert "was there, checked" in capsys.readouterr().out
    assert cli.main(["data", "fetch"]) == 0
    assert capsys.readouterr().out == "some   bytes (none); 0 MB unpacked\n"
    sets("changed")
    assert cli.main(["data", "fetch", "some", "--path", str(tmp_path / "b"), "--json"]) == 1
    assert "could not fetch a.bin" in capsys.readouterr().err
    assert cli.main(["data", "nli", "some"]) == 2
    assert "minipeft data fetch some" in capsys.readouterr().err


@pytest.mark.parametrize("name", fetch.SETS)
def test_what_is_written_of_the_published_sets_is_true(name, real_data):
    rows = fetch.fetch(name, real_data(fetch.SETS[name].folder), quiet=True)
    assert len(rows) == len(fetch.SETS[name].files) and not any(r["fetched"] for r in rows)
    assert all(home.startswith("https://") and home[-1] == "/" for home in fetch.SETS[name].homes)
