"""MNIST: small files made here are read to the byte, odd ones are refused; the real ones too."""

import gzip
import struct

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.tasks import MNIST, get_image_task
from minipeft.tasks.mnist import read_idx, shrunk


class Small(MNIST):
    """The task on files of 9 and 4 pictures."""

    sizes = (6, 3, 4)


def idx(array, kind=8):
    """An array as an IDX file."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


def pictures(n):
    return Rng(n, "pictures").integers(0, 256, (n, 28, 28)).astype(np.uint8)


def write(folder, packed=False, labels=None):
    for part, n in (("train", 9), ("t10k", 4)):
        told = np.arange(n, dtype=np.uint8) if labels is None else labels[:n]
        for name, array in (("images-idx3-ubyte", pictures(n)), ("labels-idx1-ubyte", told)):
            data = gzip.compress(idx(array)) if packed else idx(array)
            (folder / f"{part}-{name}{'.gz' if packed else ''}").write_bytes(data)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_to_the_byte(tmp_path, packed):
    task = Small(write(tmp_path, packed), side=28)
    for split, there, first in (("train", 9, 0), ("validation", 9, 6), ("test", 4, 0)):
        images = task.load(split)
        at = images.labels.tolist()  # each label is its picture's number
        assert sorted(at) == list(range(first, first + len(images)))
        assert np.array_equal(np.round(images.pixels[:, 0] * 255), pictures(there)[at])
        assert images.pixels.dtype == np.float32 and images.labels.dtype == np.int64
    assert task.load("train", 3).labels.tolist() == task.load("train").labels.tolist()[:3]
    assert task.load("train").pixels.shape == (6, 1, 28, 28)
    assert Small(tmp_path).load("test").pixels.shape == (4, 1, 16, 16)


@pytest.mark.parametrize("side", [1, 14, 16, 27, 28])
def test_a_new_pixel_is_the_mean_of_the_area_it_covers(side):
    old = pictures(1)[0].astype(int)
    fine = old.repeat(side, 0).repeat(side, 1)  # both grids fall on this one
    total = fine.reshape(side, 28, side, 28).sum((1, 3))
    exact = (2 * total + 28**2) // (2 * 28**2)  # rounded half up
    assert np.array_equal(shrunk(old.astype(np.uint8)[None], side)[0], exact)


WHOLE = idx(pictures(2))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no IDX file: it starts with nothing"),
        (b"\x89PNG\r\n", "is no IDX file: it starts with 89 50 4e 47, wanted 00 00 08"),
        (idx(pictures(2), kind=13), "holds elements of type 0x0d, wanted 0x08, unsigned bytes"),
        (idx(np.zeros(2, np.uint8)), "has 1 axes, wanted 3"),
        (WHOLE[:11], "ends after 11 bytes, before the sizes of its 3 axes"),
        (idx(pictures(3)), r"has the shape \(3, 28, 28\), wanted \(2, 28, 28\)"),
        (struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3), r"has the shape \(4294967295, "),
        (WHOLE[:-1], r"holds 1,567 of the 1,568 bytes that its shape \(2, 28, 28\) needs"),
        (WHOLE + b"x", "holds more than the 1,568 bytes"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "cannot be unpacked: Compressed file ended before"),
        (gzip.compress(WHOLE, mtime=0)[:-8] + b"12345678", "cannot be unpacked: CRC check failed"),
        (b"\x1f\x8b" + b"\0" * 30, "cannot be unpacked: Unknown compression method"),
        (gzip.compress(WHOLE, mtime=0)[:50] + b"\xff" * 50, "cannot be unpacked: "),
        (gzip.compress(WHOLE, mtime=0) + b"more", "cannot be unpacked: Not a gzipped file"),
        (gzip.compress(WHOLE + bytes(10**6), mtime=0), "holds more than the 1,568 bytes"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path, data, told):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match=told) as caught:
        read_idx(tmp_path / "a", (2, 28, 28))
    assert str(tmp_path / "a") in str(caught.value)


def test_a_label_that_is_no_digit_is_refused(tmp_path):
    wrong = np.arange(2, 11, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte has the label 10; digits are"):
        Small(write(tmp_path, labels=wrong)).load("train", 1)


def test_without_files_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        get_image_task("mnist").load("test", 1)
    said = str(caught.value)
    assert str(tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz") in said
    assert "`minipeft data fetch mnist`" in said and "MNIST(path=DIR)" in said
    (tmp_path / "mnist").mkdir()
    write(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="needs t10k-labels-idx1-ubyte.gz"):
        Small().load("test", 1)
    assert len(Small().load("train")) == 6  # the cache is looked in


@pytest.mark.parametrize("side", [0, 29, 2.0, True, "16"])
def test_a_wrong_side_is_refused(side):
    with pytest.raises(ValueError, match="side must be a whole number from 1 to 28, got "):
        MNIST(side=side)


def test_the_published_files(real_data):
    task = MNIST(real_data("mnist"))
    train, validation, test = (task.load(split) for split in task.splits)
    both = np.bincount(train.labels) + np.bincount(validation.labels)
    assert both.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    whole = MNIST(real_data("mnist"), side=28).load("train", 10_000)
    mean, spread = float(whole.pixels.mean()), float(whole.pixels.std())
    assert mean == pytest.approx(0.1307, abs=2e-3) and spread == pytest.approx(0.3081, abs=2e-3)
    assert np.array_equal(whole.labels, train.labels[:10_000])
    assert float(train.pixels.mean()) == pytest.approx(mean, abs=2e-3)
