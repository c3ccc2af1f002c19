"""The student's kit: arrays as bytes, and messages that name what is wrong."""

import numpy as np
import pytest

from minipeft.course.homework import kit
from minipeft.engine import Tensor

Y = np.arange(6.0).reshape(2, 3) + 1
USUAL = [("The scale is missing.", {"y": Y * 8 + Y * Y})]


def test_what_is_packed_comes_back():
    values = {
        "a": np.arange(4.0)[::2], "b": np.float32(2.5), "c": np.zeros((0, 3)), "n": 3, "s": "é",
        "t": True, "l": [1, 2], "i": np.arange(6).reshape(2, 3).T, "plain": 1.5,
    }  # fmt: skip
    back = kit.unpack(kit.pack(values))
    assert set(back) == set(values)
    for name, value in values.items():
        assert np.array_equal(back[name], value)
        assert getattr(back[name], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), np.array([1j])])
def test_what_is_no_number_is_not_packed(value):
    with pytest.raises(TypeError, match="x is an array of"):
        kit.pack({"x": value})


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (Y, ""),
        (Y + 1e-13, ""),
        (Y + 1e-6, "All of y is too large by 1e-06"),
        (Y.T, "y must have the shape (2, 3), got (3, 2). It is transposed."),
        (Y[:1], "y must have the shape (2, 3), got (1, 3)."),
        (-Y, "Only the sign is wrong."),
        (0 * Y, "All of y is 0."),
        (2.5 * Y, "All of y is 2.5 times what it should be: look for a scale."),
        (np.sqrt(Y).astype(np.float32) ** 2, "This is what 32-bit numbers give"),
        (Y * Y / (Y + 1e-8 / Y), "This is nearly right: is a constant rounded"),
        (None, "y is None: is a `return` missing?"),
        (memoryview(b"ab"), "y must be an array, got a memoryview."),
        (Tensor(Y), "y must be an array, got a Tensor. Its .data is one."),
        (np.roll(Y, 1, 1), "y is off by one along axis 1."),
        (Y[::-1], "y is off by one along axis 0."),
        (Y[:, ::-1], "y is reversed along axis 1."),
        (np.where(Y == 3, np.nan, Y), "y holds NaN or infinity"),
        (np.where(Y == 3, 7, Y), "y[0, 2] = 7, wanted 3. 83% of y is right."),
        (Y * 8 + Y * Y, "The scale is missing."),
        (np.array([["a"] * 3] * 2), "y must be numbers"),
    ],
)
def test_a_wrong_result_is_named(got, says):
    message = kit.compare({"y": got}, {"y": Y}, mistakes=USUAL)
    assert (says in message) if says else message == ""


def test_a_gradient_of_zeros_did_not_arrive():
    assert "No gradient arrived" in kit.compare({"gx": 0 * Y}, {"gx": Y})
    assert "No gradient" not in kit.compare({"x": 0 * Y}, {"x": Y})


def test_a_square_one_is_seen_to_be_transposed():
    square = np.arange(9.0).reshape(3, 3)
    assert "y is transposed" in kit.compare({"y": square.T}, {"y": square})


def test_the_names_of_the_results_are_told():
    assert "must return y; it returned x" in kit.compare({"x": Y}, {"y": Y})
    assert "must return y; it returned NoneType" in kit.compare(None, {"y": Y})


def test_not_a_number_is_right_only_where_it_is_wanted():
    nan = np.array([np.nan, 1.0])
    assert kit.compare({"y": nan}, {"y": nan}) == ""
    assert kit.compare({"y": nan}, {"y": np.ones(2)})
    assert kit.compare({"y": np.ones(2)}, {"y": nan})


def test_the_tolerance_is_relative_to_the_largest():
    big = np.array([1e9, 1.0])
    assert kit.compare({"y": big + 0.5}, {"y": big}) == ""
    assert kit.compare({"y": big + 1.5}, {"y": big})
