"""Published tables beside what is computed: nothing is quoted where it can be counted."""

import json

import numpy as np
import pytest

from minipeft import cli
from minipeft.contract import attach
from minipeft.ledger import PAPERS, Row, get_paper, papers, printed
from minipeft.ledger.papers import COUNTED, FORMULA, UNITS, shapes
from minipeft.methods import LoRA
from minipeft.models import GPT, OUTLINES, GPTConfig, Outline, OutlineConfig


def results(name):
    return [row.result() for row in get_paper(name).rows]


def one(name, start, printed_as=None):
    """The only row of a table that starts so (and prints that)."""
    found = [r for r in results(name) if r["row"].startswith(start)]
    found = [r for r in found if printed_as is None or r["printed"] == printed_as]
    assert len(found) == 1, found
    return found[0]


# -- a row ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "computed", "agrees"),
    [
        ("18.8M", 18_874_368, "18.9M", False),
        ("18.9M", 18_874_368, "18.9M", True),
        ("175,255.8M", 174_604_259_328, "174,604.3M", False),
        ("10,000 times", 9250.9, "9,251 times", False),
        ("< 48 GB", 47.25e9, "47.2 GB", True),
        ("< 48 GB", 48e9, "48.0 GB", False),
        ("> 780 GB", 783.4e9, "783.4 GB", True),
        ("> 780 GB", 780e9, "780.0 GB", False),
        ("~3 GB", 3.02e9, "3 GB", True),
        ("4.127 bits", 4.12695, "4.127 bits", True),
        ("GB", 3.86e9, "3.9 GB", None),
    ],
)
def test_a_number_is_compared_in_the_digits_that_are_printed(text, value, computed, agrees):
    got = Row("row", text, "of", lambda: value).result()
    assert (got["computed"], got["agrees"], got["exact"]) == (computed, agrees, value)
    assert got["printed"] == ("" if agrees is None else text)


@pytest.mark.parametrize("text", ["about 3", "3 apples", "3..1M"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="row: .* is no printed number"):
        Row("row", text, "of", lambda: 1).result()


# -- the tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPERS)
def test_every_difference_has_its_reason(name):
    table = PAPERS[name].as_dict()
    assert table["name"] == name and len(table["rows"]) >= 7
    for row in table["rows"]:
        assert row["agrees"] is not False or row["why"], row
        assert row["by"] in (COUNTED, FORMULA) and row["of"] and row["exact"] > 0
        assert len(row["scores"].split()) == len(table["scores"].split())


def test_lora_on_gpt3_is_2_matrices_d_r():
    for row in results("gpt3-ranks"):
        matrices, r = 96 * len(row["row"].split(", ")), int(row["of"].split()[-1])
        assert row["exact"] == 2 * matrices * 12_288 * r
        assert row["agrees"] == (row["why"] == "")


EXACT = {  # (table, row, printed) -> the integer
    ("gpt3", "FT", None): 174_604_259_328,
    ("gpt3", "PreEmbed", None): 3_244_032,
    ("gpt3", "PreLayer", None): 18_874_368,
    ("gpt3", "Adapter^H", "7.1M"): 7_078_080,
    ("gpt3", "Adapter^H", "40.1M"): 40_109_568,
    ("e2e", "M  FT*", None): 354_823_168,
    ("e2e", "M  FT-Top2", None): 25_192_448,
    ("e2e", "M  Adapter^L", "0.37M"): 368_784,
    ("e2e", "M  Adapter^L", "11.09M"): 11_089_152,
    ("e2e", "M  LoRA", None): 393_216,
    ("e2e", "L  FT*", None): 774_030_080,
    ("e2e", "L  Adapter^L", "0.88M"): 875_808,
    ("e2e", "L  Adapter^L", "23.00M"): 23_002_848,
    ("e2e", "L  LoRA", None): 737_280,
    ("glue", "base  FT", None): 124_645_632,
    ("glue", "base  BitFit", None): 102_912,
    ("glue", "base  LoRA", None): 294_912,
    ("glue", "large  FT", None): 355_359_744,
    ("glue", "large  LoRA, as", None): 786_432,
    ("glue", "large  Adpt^P", "0.8M"): 811_392,
    ("glue", "large  Adpt^H", "0.8M"): 835_968,
    ("glue", "XXL  FT", None): 1_564_549_632,
    ("glue", "XXL  LoRA", None): 4_718_592,
    ("vram", "checkpoint, LoRA", None): 36 * 2**20,
    ("vram", "LoRA", None): 2 * 174_604_259_328 + 16 * 18_874_368,
    ("vram", "FT", None): 16 * 174_604_259_328,
    ("tfew", "Full", None): 2_849_757_184,
    ("tfew", "BitFit", None): 1_331_200,
    ("tfew", "LayerNorm", None): (24 * 2 + 24 * 3 + 2) * 2048,
    ("tfew", "Adapter", None): 12_934_144,
    ("tfew", "LoRA", None): 9_097_216,
    ("tfew", "(IA)^3", "540K"): 540_672,
    ("tfew", "(IA)^3", "4.2 MB"): 4 * 1_081_344,
    ("prefix", "M  Fine", None): 354_823_168,
    ("prefix", "M  Adapter (3 %)", None): 11_089_152,
    ("prefix", "M  Prefix", None): 245_760,
    ("prefix", "L  Prefix", None): 460_800,
    ("prompt", "T5 XXL", None): 409_600,
    ("prompt", "gpt2, 20", None): 15_360,
    ("prompt", "gpt2-large, 20", None): 25_600,
    ("ptuning", "gpt2, mlp", None): 229_376,
    ("ptuning", "gpt2, lstm", None): 1_593_344,
    ("ptuning", "gpt2, embedding", None): 15_360,
    ("fact", "LoRA", None): 294_912,
    ("fact", "FacT-TT, r <=", None): (1 * 8_448 + 9 * 21_504 + 9 * 61_440) / 19,
    ("fact", "FacT-TK, r <=", None): (6 * 30_976 + 13 * 86_528) / 19,
}


@pytest.mark.parametrize("key", EXACT, ids=lambda key: " ".join(map(str, key)))
def test_exact_numbers(key):
    name, start, printed_as = key
    assert one(name, start, printed_as)["exact"] == EXACT[key]


def test_bits_and_bytes_of_codes():
    bits = {r["row"]: r["exact"] for r in results("qlora")}
    assert bits["NF4 in blocks of 64"] == 4 + 32 / 64
    assert bits["and constants in 8 bits"] == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-6)
    for size, name in printed.SIZES.items():
        c = OUTLINES[name]
        linear = c.layers * (4 * c.width**2 + 3 * c.width * c.mlp)
        adapter = 64 * c.layers * (4 * 2 * c.width + 3 * (c.width + c.mlp))
        rest = 2 * (2 * c.vocab * c.width + (2 * c.layers + 1) * c.width)
        codes = linear / 2 + linear / 64 + 4 * linear / (64 * 256)
        assert bits[f"{size}  as codes"] == pytest.approx(codes + rest, rel=1e-6)
        assert bits[f"{size}  training"] == bits[f"{size}  as codes"] + 16 * adapter


# -- the reasons ----------------------------------------------------------------------------------


def differing(why):
    found = [r for name in PAPERS for r in results(name) if r["why"].startswith(why)]
    assert found, why
    return found


def number(text):
    digits, unit = text.strip("<>~ ").replace(",", ""), ""
    while digits and not digits[-1].isdigit():
        digits, unit = digits[:-1], digits[-1] + unit
    return float(digits) * UNITS[unit.strip()]


def test_the_reasons_are_true():
    for row in differing("the printed number is cut off"):
        digits = len(row["printed"].partition(".")[2]) - 1 if "." in row["printed"] else 0
        unit = UNITS[row["printed"][-1]]
        cut = np.floor(row["exact"] / unit * 10**digits) / 10**digits
        assert cut == number(row["printed"]) / unit
    for row in differing("printed in whole millions"):
        assert round(row["exact"] / 1e6) == number(row["printed"]) / 1e6
    for row in differing("agrees if a million"):
        assert round(row["exact"] / 2**20, 1) == number(row["printed"]) / 1e6
    for row in differing("0.1 % of the model"):
        model = 354.92 if row["row"].startswith("M") else 774.03
        assert f"{model / 1000:.2f}M" == row["printed"]


def test_the_reasons_of_gpt3_are_true():
    row = one("gpt3", "FT")
    missing = (number(row["printed"]) - row["exact"]) / 1e6
    assert f"{missing:.1f}M" in row["why"] and f"{50_257 * 12_288 / 1e6:.1f}M" in row["why"]
    row = one("gpt3", "BitFit")
    assert row["exact"] == 11 * 12_288 * 96 + 12_288
    assert f"{12 * 12_288 * 96 / 1e6:.1f}M" == row["printed"]
    assert f"{1.2e12 / EXACT['gpt3', 'FT', None]:.1f} bytes a parameter" in one("vram", "FT")["why"]


def test_no_rank_and_no_length_gives_what_gpt2s_rows_print():
    d, L = 1024, 24
    houlsby = {r: 2 * L * (2 * d * r + r + d) for r in range(1, 300)}
    assert not [r for r, n in houlsby.items() if f"{n / 1e6:.2f}" == "11.09"]
    assert one("e2e", "M  Adapter^H")["exact"] == houlsby[112]
    for d, L, told in ((1024, 24, "0.35"), (1280, 36, "0.77")):
        assert not [n for n in range(1, 100) if f"{2 * L * d * n / 1e6:.2f}" == told]
    assert f"{(354_823_168 + 48 * 2 * 1024) / 1e6:.2f}M" == one("e2e", "M  FT*")["printed"]


def test_the_reasons_of_tfew_are_true():
    assert one("tfew", "Prefix")["exact"] == 576 * 1024
    stored = one("tfew", "(IA)^3", "4.2 MB")["exact"]
    assert f"{stored / 1e6:.1f} {stored / 2**20:.1f}" == "4.3 4.1"
    with_wo = one("tfew", "BitFit")["exact"] + 24 * 2 * 2048
    assert f"{with_wo / 1e6:.1f}M" == "1.4M" != one("tfew", "BitFit")["printed"]
    attention = 24 * (1 + 2) * (2 * 2048 * 64 + 64 + 2048)
    assert f"{(one('tfew', 'Adapter')['exact'] + attention) / 1e6:.1f}M" == "32.0M"


def test_guanacos_memory_lies_between_use_and_training():
    rows = {r["row"]: r for r in results("qlora")}
    for size in printed.SIZES:
        used = rows[f"{size}  Guanaco"]
        assert used["exact"] < number(used["printed"]) < rows[f"{size}  training"]["exact"]
    assert not rows["33B  training"]["agrees"] and rows["33B  training, paged"]["agrees"]


# -- a real adapter -------------------------------------------------------------------------------


def test_the_published_adapter_has_the_count_that_is_predicted(real_data):
    file = real_data("lora_roberta_mnli") / "roberta_base_lora_mnli.npz"
    with np.load(file) as arrays:
        real = {k: arrays[k].shape for k in arrays.files if ".lora_" in k}
    with attach(shapes("roberta-base"), LoRA(r=8)) as at:
        ours = {path: p.shape for path, p in at.trainable() if not path.startswith("head.")}
        assert at.count() == sum(int(np.prod(s)) for s in real.values()) == 294_912
    names = {"query": "q_proj", "value": "v_proj", "lora_A": "A", "lora_B": "B"}
    mapped = {}
    for key, shape in real.items():
        _, _, _, layer, _, _, part, which = key.split(".")
        mapped[f"blocks.{layer}.attn.{names[part]}.{names[which]}"] = shape
    assert mapped == ours
    assert one("glue", "base  LoRA")["exact"] == 294_912


# -- asking ---------------------------------------------------------------------------------------


def test_an_unknown_table_names_the_nearest():
    with pytest.raises(ValueError, match="no table 'gpt-3'; nearest is 'gpt3', all: gpt3, "):
        get_paper("gpt-3")


@pytest.mark.parametrize("name", ["e2e", "glue"])
def test_a_table_as_text(name):
    text, rows = str(get_paper(name)), results(name)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110 and text.count("differs") == sum(
        r["agrees"] is False for r in rows
    )
    end = lines[3].index("printed") + len("printed")
    for row, line in zip(rows, lines[4:], strict=False):
        assert line.startswith(row["row"]) and row["computed"] in line
        assert line[:end].endswith(row["printed"].rjust(len("printed")))  # on the right
        assert any(line.split()[-1:] == row["scores"].split()[-1:] for line in lines)
    notes = len({r["why"] for r in rows if r["why"]})
    assert f"\n[{notes}] " in text and f"\n[{notes + 1}] " not in text
    assert ("* by formula" in text) == any(r["by"] == FORMULA for r in rows)


def test_the_command(capsys):
    assert cli.main(["params", "--paper", "glue", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == get_paper("glue").as_dict()
    assert cli.main(["params", "--paper", "--json"]) == 0
    assert [t["name"] for t in json.loads(capsys.readouterr().out)] == list(PAPERS)
    assert cli.main(["params", "--paper"]) == 0
    listed = capsys.readouterr().out
    assert all(p.title in listed for p in PAPERS.values())
    assert cli.main(["params", "--paper", "glue", "--method", "lora"]) == 2
    assert "leave --method" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["params", "--paper", "gluee"])
    assert stop.value.code == 2 and "(did you mean 'glue'?)" in capsys.readouterr().err


def test_an_outline_is_counted_by_the_command(capsys):
    assert cli.main(["params", "--model", "llama-7b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 6_738_415_616
    for wrong in (["memory", "--model", "llama-7b"],
                  ["params", "--model", "llama-7b", "--head", "linear"]):  # fmt: skip
        assert cli.main(wrong) == 2
        assert "is an outline" in capsys.readouterr().err


# -- other models, other numbers; last, because it empties what was computed -----------------------


@pytest.fixture
def smaller(monkeypatch):
    """Every model gives way to one of two blocks, so that only what is computed can change."""
    gpt = GPT(GPTConfig(vocab=50, context=8, width=128, layers=2, heads=2), init="shape")
    gated = Outline(OutlineConfig("llama", 50, 128, 2, 2, 256))
    plain = {name: gated if name in OUTLINES and "llama" in name else gpt
             for name in (*printed.SIZES.values(), "deberta-xxl")}  # fmt: skip

    def small(name):
        return plain.get(name, gpt)

    def step(model, **settings):
        return printed_step(model, batch=1, length=4)

    printed_step = printed.predict
    caches = (papers.count, printed.stored, printed._papers)
    for cache in caches:
        cache.cache_clear()
    for file in (papers, printed):
        monkeypatch.setattr(file, "shapes", small)
    monkeypatch.setattr(printed, "predict", step)
    yield
    for cache in caches:
        cache.cache_clear()


def test_numbers_are_computed_from_the_models(smaller):
    scaled = {"saved by these", "NF4 in blocks of 64", "and constants in 8 bits"}
    for name, table in PAPERS.items():
        for row in table.rows:
            got = row.result()
            if row.name not in scaled:
                assert not got["agrees"] or got["printed"].startswith("<"), (name, got)
                assert got["exact"] < 2e8, (name, got)
