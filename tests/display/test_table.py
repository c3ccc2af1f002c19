"""A table as text, HTML and Markdown: widths, sides, escapes, and what it refuses."""

import pytest

from minipeft.display.table import Table

FRUIT = Table(("fruit", "n", "price"), [("fig", 7, "0.5"), ("a long name", 1234, "")], "lr")


def test_text_is_aligned_by_the_widest_cell_of_a_column():
    assert str(FRUIT) == repr(FRUIT) == FRUIT.text()
    assert FRUIT.text().splitlines() == [
        "fruit           n  price",
        "fig             7    0.5",
        "a long name  1234       ",
    ]


def test_a_wide_cell_is_never_cut():
    long = "x" * 300
    lines = Table(("a", "b"), [(long, "y"), ("", "z")], "lr").text().splitlines()
    assert lines[1] == f"{long}  y" and {len(line) for line in lines} == {303}


def test_a_letter_holds_for_its_column_and_the_last_for_the_rest():
    def columns(align):
        return Table(("", "", "", ""), [["x"] * 4, ["wide"] * 4], align).text().splitlines()[1]

    assert columns("l") == "x     x     x     x"
    assert columns("r") == "   x     x     x     x"
    assert columns("llr") == "x     x        x     x"
    assert columns("rlrl") == "   x  x        x  x"
    assert columns("lrrrrrr") == columns("lr") == "x        x     x     x"


def test_no_line_ends_in_blanks_where_the_last_column_is_left():
    lines = Table(("a", "b", "c"), [("x", "", ""), ("", "", ""), ("", "", "long")]).text()
    assert lines.split("\n") == ["a  b  c", "x", "", "      long"]


def test_a_table_without_rows_is_its_header():
    empty = Table(("a", "bc"), [], "lr")
    assert empty.text() == "a  bc"
    assert empty.html() == "<table><tr><th>a</th><th>bc</th></tr></table>"
    assert empty.markdown() == "| a | bc |\n| --- | ---: |"


def test_a_table_without_names():
    bare = Table((), iter([("one", 1), ("three", 3)]))
    assert bare.text() == "one    1\nthree  3"
    assert bare.html().startswith("<table><tr><td>one</td><td>1</td></tr>")
    assert bare.markdown().splitlines()[:3] == ["|  |  |", "| --- | --- |", "| one | 1 |"]
    assert Table((), []).text() == "" and Table((), [], title="none").text() == "none"


def test_html_escapes_cells_names_and_lines():
    page = Table(("<a>",), [("x & y",), ('"|"',)], title="a<b", closing="c>d")._repr_html_()
    assert page == (
        "<p>a&lt;b</p><table><tr><th>&lt;a&gt;</th></tr><tr><td>x &amp; y</td></tr>"
        "<tr><td>&quot;|&quot;</td></tr></table><p>c&gt;d</p>"
    )


def test_markdown_escapes_bars_and_tells_the_sides():
    page = Table(("|ΔW|", "n"), [("a<b> & c", 1), ("x | y", 22)], "lr").markdown()
    assert page.splitlines() == [
        r"| \|ΔW\| | n |",
        "| --- | ---: |",
        "| a<b> & c | 1 |",
        r"| x \| y | 22 |",
    ]


def test_title_and_closing_line_stand_around_the_table():
    told = Table(("a",), [("x",)], title="above", closing="below")
    assert told.text() == "above\na\nx\nbelow"
    assert told.html() == "<p>above</p><table><tr><th>a</th></tr><tr><td>x</td></tr></table>" + (
        "<p>below</p>"
    )
    assert told.markdown() == "above\n\n| a |\n| --- |\n| x |\n\nbelow"


def test_a_row_with_other_cells_than_the_header_is_named():
    with pytest.raises(ValueError, match=r"row 1 has 3 cells, not 2: \('c', 'd', 'e'\)"):
        Table(("x", "y"), [("a", "b"), "cde"])
    with pytest.raises(ValueError, match="row 0 has 0 cells, not 1"):
        Table(("x",), [()])
    with pytest.raises(ValueError, match="row 1 has 1 cells, not 2"):
        Table((), [("a", "b"), ("c",)])


@pytest.mark.parametrize("align", ["", "c", "left", "lR"])
def test_a_side_is_left_or_right(align):
    with pytest.raises(ValueError, match=f"align takes the letters l and r, got '{align}'"):
        Table(("x",), [], align)
