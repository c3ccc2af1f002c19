"""Images: shapes for pretraining and the six tasks of mini-vtab; labels that can be measured."""

import hashlib
import sys
from collections import Counter

import numpy as np
import pytest

from minipeft import evaluate, fit, load_model
from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.methods import LoRA
from minipeft.tasks import IMAGE_TASKS, MINI_VTAB, get_image_task, get_task
from minipeft.tasks import digits as digits_file
from minipeft.tasks.images import quantised
from minipeft.tasks.mini_vtab import Angle, Cells, Count, Textures
from minipeft.tasks.shapes import _SHAPES, PATHS, PIXEL, areas, directions, placed, strokes
from tests.tiny import Sounds, gpt

REAL = ("digits", "clutter")
DIGESTS = {
    "shapes": "c6d3194beeae3d5a",
    "textures": "e642c11cb3a845a0",
    "cells": "2bd05dd7693ac792",
    "count": "ebb2aba2b8f73806",
    "angle": "a31462d2575c0a4a",
}


@pytest.fixture(params=IMAGE_TASKS)
def task(request, real_data):
    if request.param in REAL:
        request.getfixturevalue("digits_at_hand")
    return get_image_task(request.param, real_data("mnist") if request.param == "mnist" else None)


def test_six_tasks_in_three_groups():
    assert Counter(t.group for t in MINI_VTAB.values()) == {
        "natural": 2, "specialised": 2, "structured": 2
    }  # fmt: skip
    assert "digits" in MINI_VTAB and "shapes" not in MINI_VTAB
    for name, of in MINI_VTAB.items():
        assert of.name == name and of.sizes[:2] == (800, 200)


def test_pictures_are_arrays_of_one_form(task):
    for split, size in zip(task.splits, task.sizes, strict=True):
        n = min(size, 300)
        images = task.load(split, n)
        assert images.pixels.shape == (n, 1, 16, 16) and images.pixels.dtype == np.float32
        assert images.labels.shape == (n,) and images.labels.dtype == np.int64
        assert 0.0 <= images.pixels.min() and images.pixels.max() <= 1.0
        assert set(images.labels.tolist()) == set(range(len(task.classes)))
        levels = images.pixels.astype(np.float64) * 255.0
        assert np.abs(levels - np.round(levels)).max() < 1e-4


def seen(images):
    return {picture.tobytes() for picture in images.pixels}


def test_splits_share_no_picture(task):
    parts = [seen(task.load(split, min(size, 800))) for split, size in
             zip(task.splits, task.sizes, strict=True)]  # fmt: skip
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(parts[0]) == 800


def test_small_sizes_are_the_beginning_of_large_ones(task):
    large, small, other = task.load("train", 300), task.load("train", 32), task.load("train", 32, 1)
    assert np.array_equal(large.pixels[:32], small.pixels)
    assert np.array_equal(large.labels[:32], small.labels)
    assert not np.array_equal(small.pixels, other.pixels)


def test_the_thousand_pictures_are_the_same_for_every_seed():
    count = Count()
    assert seen(count.load("train", seed=0)) == seen(count.load("train", seed=5))
    assert len(count.load("train")) + len(count.load("validation")) == 1000


@pytest.mark.parametrize("name", DIGESTS)
def test_the_same_bits_every_time(name):
    images = get_image_task(name).load("train", 64)
    data = np.round(images.pixels * 255).astype(np.uint8).tobytes() + bytes(images.labels.tolist())
    assert hashlib.sha256(data).hexdigest()[:16] == DIGESTS[name]


def regions(picture):
    """How many connected regions are true, by their edges."""
    left, n = {tuple(p) for p in np.argwhere(picture)}, 0
    while left:
        n, todo = n + 1, [left.pop()]
        while todo:
            y, x = todo.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    todo.append(near)
    return n


def test_dots_can_be_counted():
    labels = np.arange(120) % 6
    light = Count()._light(Rng(3, "test"), labels)
    assert [regions(picture > 0.5) for picture in light] == (labels + 1).tolist()


def test_every_digit_is_one_of_the_originals_with_its_own_label(digits_at_hand):
    """The splits together hold each of the 1 797 pictures once."""
    from sklearn.datasets import load_digits

    found = load_digits()
    wide = np.pad(found.images / 16.0, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for axis in (1, 2):  # twice as wide and halved again: three quarters and two eighths
        n = wide.shape[axis]
        left, mid, right = (wide.take(range(i, n - 2 + i), axis) for i in range(3))
        wide = 0.75 * mid + 0.125 * (left + right)
    old, places = wide.reshape(len(wide), -1), []
    for split in ("train", "validation", "test"):
        images = get_image_task("digits").load(split)
        new = images.pixels.reshape(-1, 8, 2, 8, 2).mean((2, 4), dtype=np.float64).reshape(-1, 64)
        nearest = ((old**2).sum(1) - 2 * new @ old.T).argmin(1)
        assert np.abs(new - old[nearest]).max() < 0.5 / 255 + 1e-6
        assert (images.labels == found.target[nearest]).all()
        places += nearest.tolist()
    assert sorted(places) == list(range(1797))


def test_clutter_shows_its_digit_moved_by_two_pixels_at_most(digits_at_hand):
    plain, cluttered = (get_image_task(name).load("test") for name in REAL)
    best = []
    for one in cluttered.pixels[:60, 0]:
        shifts = [np.roll(one, (y, x), (0, 1)) for y in range(-2, 3) for x in range(-2, 3)]
        a = np.stack(shifts).reshape(25, -1)
        a = a - a.mean(1, keepdims=True)
        b = plain.pixels.reshape(len(plain), -1) - plain.pixels.mean((1, 2, 3))[:, None]
        match = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
        best.append(int(plain.labels[match.max(0).argmax()]))
    assert np.mean(np.array(best) == cluttered.labels[:60]) > 0.8


def test_levels_are_rounded():
    values = np.array([0.0, 0.49 / 255, 0.51 / 255, 1.49 / 255, 0.999, 1.2, -3.0])
    levels = quantised(np.broadcast_to(values[:, None, None], (7, 16, 16)))[:, 0, 0, 0] * 255
    assert np.allclose(levels, [0, 0, 1, 1, 255, 255, 0])


def gradients(light):
    """How much of the change of each picture goes along one axis, from 0 to 1, inside it."""
    y, x = (g[:, 1:-1, 1:-1].reshape(len(light), -1) for g in np.gradient(light, axis=(1, 2)))
    xx, yy, xy = (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)
    return np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy)


def test_textures_are_what_they_are_called():
    labels = np.arange(300) % 5
    light = Textures()._light(Rng(3, "test"), labels)
    along, bright = gradients(light), light.mean((1, 2))
    told = {name: labels == i for i, name in enumerate(Textures.classes)}
    assert along[told["stripes"]].min() > 0.9  # stripes alone change in one direction only
    assert all(np.median(along[told[n]]) < 0.5 for n in told if n != "stripes")
    assert bright[told["spots"]].mean() < 0.35 < 0.45 < bright[told["checks"]].mean() < 0.55
    # moved by half a wave along both axes checks are the same, so light and dark weigh as much
    extreme = ((light < 0.1) | (light > 0.9)).mean((1, 2))
    assert np.median(extreme[told["blotches"]]) < np.median(extreme[told["checks"]])


def test_sick_cells_have_a_hole():
    labels = np.arange(100) % 2
    light = Cells()._light(Rng(3, "test"), labels)
    dark = [regions(np.pad(picture, 1) < 0.5) for picture in light]
    sick = [n for n, label in zip(dark, labels, strict=True) if label]
    well = [n for n, label in zip(dark, labels, strict=True) if not label]
    assert np.mean(sick) > np.mean(well) + 0.9


def test_bars_can_be_measured():
    labels = np.arange(160) % 8
    light = Angle()._light(Rng(3, "test"), labels)
    y, x = np.mgrid[7.5:-8.5:-1, -7.5:8.5:1]
    for picture, label in zip(light, labels, strict=True):
        w = picture / picture.sum()
        dx, dy = x - (w * x).sum(), y - (w * y).sum()
        angle = 0.5 * np.arctan2(2 * (w * dx * dy).sum(), (w * (dx * dx - dy * dy)).sum())
        off = (np.degrees(angle) % 180.0 - 22.5 * (label + 0.5) + 90.0) % 180.0 - 90.0
        assert abs(off) < 11.25 + 3.0, (label, np.degrees(angle))


def test_areas_and_strokes_have_the_size_that_they_should():
    """Light adds up to area: that of a square, of a sixteen-sided disc, of a pen stroke."""
    turn, place = directions(Rng(0, "turn"), 8), Rng(0, "place").uniform((8, 2), -0.2, 0.2)
    for name, area in (("square", 1.5**2), ("disc", 8 * np.sin(np.pi / 8))):
        shape = np.repeat(_SHAPES[[list(PATHS).index(name)]], 8, axis=0)
        light = areas(placed(shape, place, np.full((8, 2), 0.6), turn))
        assert light.sum((1, 2)) * PIXEL**2 == pytest.approx(np.full(8, 0.36 * area), rel=0.03)
    line = np.repeat(_SHAPES[[list(PATHS).index("line")]], 8, axis=0)
    light = strokes(placed(line, place, np.full((8, 2), 0.6), turn), np.full(8, 0.12))
    area = 1.2 * 0.24 + np.pi * 0.12**2
    assert light.sum((1, 2)) * PIXEL**2 == pytest.approx(np.full(8, area), rel=0.04)


def linear(train, test, classes, steps=200, lr=1.0):
    """Accuracy in percent of softmax regression on the pixels."""
    x = [t.pixels.reshape(len(t), -1).astype(np.float64) for t in (train, test)]
    mean, spread = x[0].mean(0), x[0].std() + 1e-9
    x = [(a - mean) / spread / 16.0 for a in x]
    y, w, b = np.eye(classes)[train.labels], np.zeros((256, classes)), np.zeros(classes)
    for _ in range(steps):
        z = x[0] @ w + b
        p = np.exp(z - z.max(1, keepdims=True))
        g = p / p.sum(1, keepdims=True) - y
        w -= lr * x[0].T @ g / len(y)
        b -= lr * g.mean(0)
    return 100.0 * float(np.mean(np.argmax(x[1] @ w + b, 1) == test.labels))


def test_baselines(task):
    """Pixels alone do well on plain digits and nowhere else: there is something to learn."""
    train, test = task.load("train", 800), task.load("test", min(task.sizes[2], 700))
    common = 100.0 * np.bincount(test.labels).max() / len(test)
    score = linear(train, test, len(task.classes))
    print(f"{task.name}: majority {common:.1f} %, softmax regression on pixels {score:.1f} %")
    if task.name in ("digits", "mnist"):
        assert score > 80.0
    else:
        assert score < 75.0
    assert common < 60.0


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits_file._digits.cache_clear()
    with pytest.raises(ImportError, match=r"come with scikit-learn.*minipeft\[lectures\]"):
        get_image_task("digits").load("train", 5)


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match=r"no task 'digit' on images \(did you mean 'digits'\?\)"):
        get_image_task("digit")
    with pytest.raises(ValueError, match=r"get_image_task\('count'\)"):
        get_task("count")
    with pytest.raises(ValueError, match="task 'count' makes its own data and takes no path"):
        get_image_task("count", "somewhere")
    with pytest.raises(ValueError, match="has 800 pictures in the split 'train', got n=801"):
        Count().load("train", 801)
    with pytest.raises(ValueError, match=r"no split 'tests' \(did you mean 'test'\?\)"):
        Count().load("tests")


def test_pictures_have_one_pattern_and_the_repr_tells_the_sizes():
    task = get_image_task("cells")
    assert repr(task) == ("Cells('cells': images, accuracy; train 800, validation 200, test 1,000)")
    with pytest.raises(ValueError, match="'cells' is on pictures and has pattern 0 alone, got 1"):
        task.load("train", pattern=1)
    pictures = list(task.load("test", 3))
    assert pictures[1].pixels.shape == (1, 16, 16) and pictures[2].label in (0, 1)


def test_fit_and_evaluate_take_pictures_and_know_a_model_of_text():
    model, task = load_model("tiny-vit", classes=5), get_image_task("textures")
    attach(model, LoRA(r=4))
    before = evaluate(model, task, "train", n=100)
    fit(model, task, steps=40, n=100, quiet=True)
    after = evaluate(model, task, "train", n=100, batch=33)
    assert after["loss"] < 0.8 * before["loss"] and after["n"] == 100
    assert before["accuracy"] < 30 < 45 < after["accuracy"]
    assert list(after) == ["loss", "n", "accuracy"]
    with pytest.raises(ValueError, match="a GPT reads text, this task is on pictures"):
        evaluate(gpt(), task)
    with pytest.raises(ValueError, match="a ViT reads pictures, this task is on text"):
        fit(model, Sounds(), steps=1)
