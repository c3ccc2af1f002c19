"""The plots of the course: each takes plain numbers, draws on an Axes, and returns it.

Colours are Okabe and Ito's, which the colour-blind can tell apart; every series has its own
marker too, so that a figure reads without colour. matplotlib is imported on first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
METHOD_COLOURS = {  # dark enough to write names in; kin have kindred colours
    "full": "#000000", "topk": "#6E6E6E", "bitfit": "#8C510A",
    "ln_tuning": "#BF812D", "linear_probe": "#7F7F2A", "ia3": "#B91C1C",
    "lora": "#0072B2", "dora": "#3A9BDC", "vera": "#005F73", "pissa": "#4B4EB8",
    "adalora": "#7A3FA0", "loftq": "#0A9396", "quant": "#CC79A7", "qlora": "#B5227F",
    "lnlora": "#1E7FA8", "fact": "#2E4A9E",
    "subspace": "#D55E00", "magnitude": "#009E73", "movement": "#4D7C0F",
    "prefix": "#C1272D",
    "adapter": "#A63A00", "parallel": "#C0504D",
    "prompt": "#8B1A1A", "ptuning": "#D6455D", "infix": "#E05A2B",
    "steering": "#6D28D9",
}  # fmt: skip
COMPOSED = {"parameter": "o", "function": "s", "input": "^"}  # markers of the ways to compose
KINDS = {  # of a schematic's boxes: fill, edge, what the legend says
    "frozen": ("#E3E7EC", "#8A94A0", "frozen"),
    "trains": ("#FBE0C8", "#D55E00", "trains"),
    "data": ("white", "white", ""),
}
STYLE: dict[str, Any] = {  # lectures/style.mplstyle says the same
    "figure.figsize": (6.4, 3.8),
    "figure.dpi": 100,
    "savefig.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "legend.frameon": False,
    "image.cmap": "cividis",
}


@contextmanager
def style() -> Iterator[None]:
    """The look of the course, inside a `with` or as @style() around a function."""
    import matplotlib
    from cycler import cycler

    look: Any = STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}
    with matplotlib.rc_context(look):
        yield


def axes(ax: Any = None) -> Any:
    """The Axes given, or one of a new figure; no window is needed."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    with style():
        return Figure(layout="constrained").subplots()


def mark(i: int) -> dict[str, str]:
    """Colour and marker of the i-th series; no two of the first 88 are alike."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def check_format(path: str | Path) -> None:
    """Find out before hours of work whether `save` knows the kind of file that a path ends in."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.filetypes)
    if Path(path).suffix.lower().removeprefix(".") not in kinds:
        raise ValueError(f"a figure cannot be written as {str(path)!r}: its name must end in one "
                         f"of .{', .'.join(kinds)}")  # fmt: skip


@style()
def save(ax: Any, path: str | Path) -> Path:
    """Write the figure that an Axes is in; the kind of file goes by its ending."""
    ax.figure.savefig(path)
    return Path(path)


@style()
def lines(series: Mapping[str, tuple[Sequence[float], Any]], ax: Any = None, **labels: str) -> Any:
    """Curves with a band of one standard deviation.

    series  name -> (x, y): y is (len(x),), or (runs, len(x)) for a mean with its band
    labels  xlabel, ylabel, title, xscale, yscale: what Axes.set takes
    """
    ax = axes(ax)
    for i, (name, (x, y)) in enumerate(series.items()):
        runs = np.atleast_2d(np.asarray(y, dtype=np.float64))  # (runs, points)
        mean = runs.mean(axis=0)
        ax.plot(x, mean, label=name, **mark(i), markevery=max(1, len(mean) // 12))
        if len(runs) > 1:
            spread = runs.std(axis=0, ddof=1)
            ax.fill_between(x, mean - spread, mean + spread, color=mark(i)["color"], alpha=0.15)
    if len(series) > 1:
        ax.legend()
    ax.set(**labels)
    return ax


@style()
def heat(
    matrix: Any, rows: Sequence[Any], columns: Sequence[Any], ax: Any = None, **labels: str
) -> Any:
    """A matrix as colours, with its numbers written in while they are few (up to 12 x 12)."""
    values = np.asarray(matrix, dtype=np.float64)
    ax = axes(ax)
    image = ax.imshow(values, aspect="auto")
    ax.grid(False)
    ax.set_xticks(range(len(columns)), [str(c) for c in columns])
    ax.set_yticks(range(len(rows)), [str(r) for r in rows])
    if max(values.shape) <= 12:
        middle = (values.min() + values.max()) / 2
        for (i, j), value in np.ndenumerate(values):
            colour = "black" if value > middle else "white"
            shown = f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
            ax.text(j, i, shown, ha="center", va="center", color=colour, fontsize=8)
    ax.figure.colorbar(image, ax=ax)
    ax.set(**labels)
    return ax


@style()
def tape(recorded: Sequence[Any], ax: Any = None, **labels: str) -> Any:
    """Who holds which bytes: a bar for each recorded operation, the first on top.

    recorded  what engine.graph.kept(loss) returns. An x marks an operation that met frozen
              parameters, whose derivatives were dropped
    """
    ax = axes(ax)
    names = list(dict.fromkeys(k.operation for k in recorded))
    size = max([k.bytes for k in recorded], default=0) or 1
    unit, scale = next((u, s) for u, s in (("MB", 1e6), ("kB", 1e3), ("bytes", 1)) if size >= s)
    for name in names:
        at = [i for i, k in enumerate(recorded) if k.operation == name]
        colour = mark(names.index(name))["color"]
        ax.barh(at, [recorded[i].bytes / scale for i in at], height=1.0, color=colour, label=name)
    cut = [i for i, k in enumerate(recorded) if k.pruned]
    ax.plot([-0.02 * size / scale] * len(cut), cut, "kx", markersize=4, label="something frozen")
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set(**{"xlabel": f"kept for backward ({unit})", "ylabel": "operation", **labels})
    return ax


def colour_of(method: str) -> str:
    """The colour of a method, the same in every figure; black for a name that is none."""
    return METHOD_COLOURS.get(method, "#000000")


@style()
def tradeoff(rows: Sequence[Mapping[str, Any]], ax: Any = None, metric: str = "score") -> Any:
    """What each method reaches against its trainable parameters, as `compare` returns them.

    The height is the score, with one standard deviation, and the frozen base is a dashed line.
    Where every method gets to 95 % in most seeds, scores hardly differ; then the height is the
    steps that this takes, least on top, with a bar from the fastest seed to the slowest.
    The shape of a point says what the method composes: parameters, functions or inputs.
    """
    from minipeft.methods import METHODS

    ax = axes(ax)
    kinds = {name: method.compose for name, method in METHODS.items()}
    trained = [r for r in rows if r["trainable"]]
    fast = all(r.get("steps_to_95") is not None for r in trained)
    for row in trained:
        height = row["steps_to_95"] if fast else row["score_mean"]
        seeds = [n for n in row["each"]["steps_to_95"] if n is not None] if fast else []
        spread = [[height - min(seeds)], [max(seeds) - height]] if fast else row["score_std"]
        ax.errorbar(
            row["trainable"], height, yerr=spread, capsize=3, label=row["method"],
            color=colour_of(row["method"]), fmt=COMPOSED[kinds.get(row["method"], "parameter")],
        )  # fmt: skip
    if fast:
        ax.invert_yaxis()
    for row in rows:
        if not row["trainable"] and not fast:
            ax.axhline(row["score_mean"], color="grey", linestyle="--")
            ax.text(1.0, row["score_mean"], f" {row['method']}", color="grey", va="center",
                    transform=ax.get_yaxis_transform())  # fmt: skip
    ylabel = "training steps until 95 % are right" if fast else metric
    ax.set(xscale="log", xlabel="trainable parameters", ylabel=ylabel)
    sizes = np.log([r["trainable"] for r in trained])
    width = max(float(np.ptp(sizes)), 1.0)
    ax.set_xlim(np.exp(sizes.min() - 0.1 * width), np.exp(sizes.max() + 0.2 * width))
    ax.margins(y=0.12)
    drawn = {kinds.get(row["method"], "parameter") for row in trained}
    marks = [ax.plot([], [], shape, color="#555555", label=f"{kind} composition")[0]
             for kind, shape in COMPOSED.items() if kind in drawn]  # fmt: skip
    if len(marks) > 1:
        ax.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    name_points(ax)
    return ax


# where a name may stand around its point: offset in points, then how the text is aligned
AROUND = [
    (dx * r, dy * r, ("right", "center", "left")[dx + 1], ("top", "center", "bottom")[dy + 1])
    for r in (7, 14, 22, 30, 40)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]


def name_points(ax: Any) -> None:
    """Write the label of each error-bar point beside it, where it covers least.

    Of the places AROUND a point the first is taken that lies inside the axes and touches no point,
    no bar and no earlier name; in a crowd the one that touches fewest.
    """
    from matplotlib.transforms import Bbox

    ax.figure.draw_without_rendering()  # from now on places on the page are known
    frame, taken = ax.get_window_extent(), []
    for point in ax.containers:
        dots = [point.lines[0].get_xydata()]
        bars = [segment for part in point.lines[2] for segment in part.get_segments()]
        ends = [ax.transData.transform(place) for place in dots + bars]
        taken += [Bbox([e.min(axis=0), e.max(axis=0)]).padded(4) for e in ends]
    for point in ax.containers:
        best: Any = None
        line = point.lines[0]
        for dx, dy, ha, va in AROUND:
            text = ax.annotate(
                point.get_label(), line.get_xydata()[0], (dx, dy), textcoords="offset points",
                ha=ha, va=va, color=line.get_color(), fontsize=9,
            )  # fmt: skip
            text.set_in_layout(False)  # the axes stay as they were when places were measured
            box = text.get_window_extent()
            covered = sum(box.overlaps(other) for other in taken)
            whole = frame.contains(*box.min) and frame.contains(*box.max)
            if best is None or (not whole, covered) < best[0]:
                if best is not None:
                    best[1].remove()
                best = (not whole, covered), text
            else:
                text.remove()
        taken.append(best[1].get_window_extent())


@style()
def bars(groups: Mapping[str, Mapping[str, Sequence[float]]], ax: Any = None, **labels: str) -> Any:
    """Bars side by side, with one standard deviation where there are several runs.

    groups  name of the bars -> category -> the runs' values; every group has the same categories
    """
    ax = axes(ax)
    width = 0.8 / len(groups)
    for i, (name, values) in enumerate(groups.items()):
        runs = [np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in values.values()]
        at = np.arange(len(runs)) + (i - (len(groups) - 1) / 2) * width
        spread = [r.std(ddof=1) if len(r) > 1 else 0.0 for r in runs]
        ax.bar(
            at, [r.mean() for r in runs], width, yerr=spread if any(spread) else None, capsize=2,
            color=COLOURS[i % len(COLOURS)], hatch=("", "//", "..", "xx")[i % 4], alpha=0.85,
            edgecolor="white", label=name,
        )  # fmt: skip
        ax.set_xticks(range(len(runs)), list(values))
    ax.grid(False, axis="x")
    if len(groups) > 1:
        ax.legend()
    ax.set(**labels)
    return ax


@style()
def schematic(
    boxes: Mapping[str, tuple[float, float, str, str]],
    arrows: Sequence[tuple[str, ...]],
    ax: Any = None,
    **labels: str,
) -> Any:
    """A method as boxes and arrows: what is frozen, what trains, and what flows between them.

    boxes   name -> (x, y, text, kind): the middle of a box, x to the right and y up, in steps of
            about one box; a kind is "frozen", "trains", or "data", which has no frame
    arrows  (from, to) or (from, to, what is written beside it), by the names of boxes
    Raises  ValueError for a kind or a name that is none
    """
    for name, (*_, kind) in boxes.items():
        if kind not in KINDS:
            raise ValueError(f"box {name!r} is {kind!r}; a kind is one of {', '.join(KINDS)}")
    ends = {end for arrow in arrows for end in arrow[:2]}
    if unknown := sorted(ends - set(boxes)):
        raise ValueError(f"an arrow names {unknown[0]!r}; the boxes are {', '.join(boxes)}")
    drawn, places = {}, np.array([box[:2] for box in boxes.values()], dtype=np.float64)
    low, high = places.min(0) - 0.3, places.max(0) + 0.3
    if ax is None:
        ax = axes()
        ax.figure.set_size_inches(7.2, 1.2 + 0.9 * (high[1] - low[1]))
    ax.set_axis_off()
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), **labels)
    for name, (x, y, text, kind) in boxes.items():
        fill, edge, _ = KINDS[kind]
        pad = 0.15 if kind == "data" else 0.45
        look = {"boxstyle": f"round,pad={pad}", "facecolor": fill, "edgecolor": edge, "lw": 1.4}
        drawn[name] = ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=look, zorder=3)
    for start, end, *beside in arrows:
        (x0, y0), (x1, y1) = (boxes[name][:2] for name in (start, end))
        ax.annotate(
            "", (x1, y1), (x0, y0), zorder=2,
            arrowprops={"arrowstyle": "-|>", "color": "#444444", "lw": 1.2, "shrinkA": 0,
                        "shrinkB": 2, "patchA": drawn[start].get_bbox_patch(),
                        "patchB": drawn[end].get_bbox_patch()},
        )  # fmt: skip
        for text in beside:
            ax.annotate(text, ((x0 + x1) / 2, (y0 + y1) / 2), (4, 4), fontsize=8,
                        textcoords="offset points", color="#444444")  # fmt: skip
    _widen(ax, [text.get_bbox_patch() for text in drawn.values()])
    used = [KINDS[k] for k in KINDS if k != "data" and any(box[3] == k for box in boxes.values())]
    marks = [ax.scatter([], [], marker="s", s=90, color=fill, edgecolor=edge, label=told)
             for fill, edge, told in used]  # fmt: skip
    if marks:
        ax.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    return ax


def _widen(ax: Any, patches: Sequence[Any]) -> None:
    """Set the limits of an Axes so that the boxes of texts lie in it, whatever their length."""
    for _ in range(3):  # the boxes keep their size in points, so that wider limits move them
        ax.figure.draw_without_rendering()
        back = ax.transData.inverted()
        corners = [back.transform(patch.get_window_extent().padded(4)) for patch in patches]
        (x0, y0), (x1, y1) = np.min(corners, axis=(0, 1)), np.max(corners, axis=(0, 1))
        (a, b), (c, d) = ax.get_xlim(), ax.get_ylim()
        ax.set(xlim=(min(a, x0), max(b, x1)), ylim=(min(c, y0), max(d, y1)))
    ax.figure.draw_without_rendering()  # the arrows find the boxes where they are now
