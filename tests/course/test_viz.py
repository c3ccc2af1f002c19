"""Plots: the same look everywhere, every series to be told apart, no window needed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from minipeft import METHODS
from minipeft.course import viz

ROWS = [
    {"method": name, "trainable": n, "score_mean": 60.0 + n % 7, "score_std": 1.0}
    for name, n in [("base", 0), ("full", 900_000), ("lora", 18_000), ("bitfit", 6_000)]
]


def test_the_style_file_says_the_same():
    import matplotlib as mpl

    file = Path(__file__).parents[2] / "lectures" / "style.mplstyle"
    written = mpl.rc_params_from_file(file, use_default_template=False)
    with viz.style():
        assert set(written) == {*viz.STYLE, "axes.prop_cycle"}
        assert all(mpl.rcParams[key] == value for key, value in written.items())


def test_every_series_has_its_own_mark():
    marks = [tuple(viz.mark(i).values()) for i in range(88)]
    assert len(set(marks)) == 88


def boxes(ax):
    """Where the names of methods stand on the page, and the frame."""
    ax.figure.draw_without_rendering()
    names = {text.get_text(): text.get_window_extent() for text in ax.texts}
    return names, ax.get_window_extent()


def test_tradeoff_shows_every_method_on_a_log_axis(tmp_path):
    ax = viz.tradeoff(ROWS, metric="accuracy")
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "accuracy"
    assert {text.get_text().strip() for text in ax.texts} == {r["method"] for r in ROWS}
    points = {c.get_label(): c.lines[0].get_xydata()[0].tolist() for c in ax.containers}
    assert points["lora"] == [18_000, ROWS[2]["score_mean"]] and len(points) == 3
    assert viz.save(ax, tmp_path / "a.png").stat().st_size < 60_000


def test_the_shape_of_a_point_says_what_is_composed():
    of = {"lora": "o", "ia3": "s", "prompt": "^"}
    rows = [ROWS[1] | {"method": name, "trainable": 10 ** (3 + i)} for i, name in enumerate(of)]
    ax = viz.tradeoff(rows)
    assert {c.get_label(): c.lines[0].get_marker() for c in ax.containers} == of
    marks = ax.get_legend().legend_handles
    told = [(mark.get_label(), mark.get_marker()) for mark in marks]
    assert told == [(f"{METHODS[name].compose} composition", shape) for name, shape in of.items()]
    assert viz.tradeoff(rows[:1]).get_legend() is None  # one kind needs no key


def test_where_all_are_right_tradeoff_shows_how_soon():
    steps = {"full": [40, 50, 90], "lora": [20, 30, 35], "bitfit": [60, 70, None]}
    rows = [r | {"steps_to_95": None, "each": {}} for r in ROWS[:1]]
    rows += [r | {"steps_to_95": steps[r["method"]][1], "each": {"steps_to_95": steps[r["method"]]}}
             for r in ROWS[1:]]  # fmt: skip
    ax = viz.tradeoff(rows)
    assert "steps" in ax.get_ylabel() and ax.yaxis_inverted()  # fewer is better: on top
    drawn = {c.get_label(): c for c in ax.containers}
    assert drawn["full"].lines[0].get_xydata()[0].tolist() == [900_000, 50]
    assert drawn["full"].lines[2][0].get_segments()[0][:, 1].tolist() == [40, 90]
    rows[1]["steps_to_95"] = None  # one that does not get there: scores are shown
    assert viz.tradeoff(rows, metric="accuracy").get_ylabel() == "accuracy"


def test_names_cover_neither_points_nor_each_other():
    many = [*METHODS]
    rows = [{"method": name, "trainable": 1000 * 3 ** (i // 2), "score_mean": 90.0 + i % 2,
             "score_std": 0.5} for i, name in enumerate(many)]  # fmt: skip
    ax = viz.tradeoff(rows)
    found, frame = boxes(ax)
    assert set(found) == set(many)
    names = list(found.values())
    assert not any(a.overlaps(b) for i, a in enumerate(names) for b in names[:i])
    for point in ax.containers:
        place = ax.transData.transform(point.lines[0].get_xydata()[0])
        assert not any(box.contains(*place) for box in names)
    assert all(frame.contains(b.x0, b.y0) and frame.contains(b.x1, b.y1) for b in names)


def test_every_method_has_a_colour_of_its_own():
    assert set(viz.METHOD_COLOURS) == set(METHODS)
    assert len({viz.colour_of(name) for name in METHODS}) == len(METHODS)
    ax = viz.tradeoff(ROWS)
    drawn = {c.get_label(): c.lines[0].get_color() for c in ax.containers}
    assert drawn["lora"] == viz.colour_of("lora")


def test_lines_have_a_band_where_there_are_runs():
    x, runs = [1, 2, 3], np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    ax = viz.lines({"one": (x, [1, 2, 3]), "two": (x, runs)}, xlabel="x", yscale="log")
    assert len(ax.lines) == 2 and len(ax.collections) == 1 and ax.get_yscale() == "log"
    assert ax.lines[1].get_ydata().tolist() == [2.0, 3.0, 4.0]


def test_heat_writes_its_numbers():
    ax = viz.heat(np.arange(6.0).reshape(2, 3), rows="ab", columns="xyz", title="t")
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2", "3", "4", "5"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_pyplot_and_its_windows_are_not_needed():
    import subprocess

    ask = "print('matplotlib.pyplot' in sys.modules)"
    code = f"from minipeft.course import viz; viz.axes(); import sys; {ask}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_tape_has_a_bar_for_each_operation_and_marks_what_was_pruned():
    from minipeft.engine.graph import Kept

    recorded = [Kept("linear", (2, 3), 0, 2), Kept("gelu", (2, 3), 4000), Kept("linear", (2,), 500)]
    ax = viz.tape(recorded, title="a tape")
    assert sorted(bar.get_width() for bar in ax.patches) == [0, 0.5, 4.0]
    assert ax.get_xlabel() == "kept for backward (kB)" and list(ax.lines[0].get_ydata()) == [0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "something frozen", "linear", "gelu"]  # fmt: skip


BOXES = {
    "x": (0, 0, "x  (T, d)", "data"),
    "W": (1, 0, "a frozen layer with a name that is longer than its place\nW (d, d)", "frozen"),
    "A": (1, -1, "A (r, d)", "trains"),
}


def test_a_schematic_shows_all_boxes_inside_and_says_what_trains():
    ax = viz.schematic(BOXES, [("x", "W"), ("x", "A", "x")], title="t")
    ax.figure.draw_without_rendering()
    frame = ax.get_window_extent()
    framed = {t.get_text(): t.get_bbox_patch().get_window_extent() for t in ax.texts
              if t.get_bbox_patch()}  # fmt: skip
    assert set(framed) == {text for _, _, text, _ in BOXES.values()}
    assert all(frame.contains(b.x0, b.y0) and frame.contains(b.x1, b.y1) for b in framed.values())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["frozen", "trains"]
    assert sum(t.arrow_patch is not None for t in ax.texts if hasattr(t, "arrow_patch")) == 2
    assert ax.get_title() == "t" and "x" in {t.get_text() for t in ax.texts}


def test_a_schematic_refuses_kinds_and_names_that_are_none():
    with pytest.raises(ValueError, match="'A' is 'hot'.*frozen, trains, data"):
        viz.schematic({"A": (0, 0, "A", "hot")}, [])
    with pytest.raises(ValueError, match="'B'.*x, W, A"):
        viz.schematic(BOXES, [("x", "B")])
