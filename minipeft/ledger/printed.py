"""The tables of the slides in which methods and their base models appear.

Those whose rows are all counted on models stand in tables.toml; here are those that compute more.
"""

from __future__ import annotations

import operator
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from minipeft.checks import nearest
from minipeft.contract import Method, attach
from minipeft.ledger.papers import FORMULA, Paper, Row, count, shapes
from minipeft.ledger.step import predict
from minipeft.ledger.table import HALF, TRAINED
from minipeft.methods import IA3, FacT, Full, LNTuning, LoRA, Prompt, QLoRA, Quantize, get_method
from minipeft.methods.quant import codes_of

QKVO = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}


def lora(letters: str, r: int) -> LoRA:
    """LoRA on some of the attention's matrices."""
    return LoRA(r=r, targets=tuple(QKVO[letter] for letter in letters))


def counted(
    name: str, printed: str, model: str, method: Method, of: str, why: str = "", scores: str = ""
) -> Row:
    """A row that a method on a model of shapes gives."""
    return Row(name, printed, of, lambda: count(model, method), why, scores=scores)


def formula(
    name: str, printed: str, model: str, of: str, value: Callable[[int, int], int], why: str = "",
    scores: str = "",
) -> Row:  # fmt: skip
    """A row of a method that is not in the library: value(d, L) of the model's width and depth."""

    def compute() -> int:
        c = shapes(model).config
        return value(c.width, c.layers)

    return Row(name, printed, of, compute, why, FORMULA, scores)


# -- GPT-3 ----------------------------------------------------------------------------------------

G3 = "gpt3-175b"
CUT = "the printed number is cut off, not rounded"


@cache
def _papers(full: bool) -> dict[str, int]:
    """The ledger's bytes as papers count them, for GPT-3 in full or by LoRA; and a step here."""
    with attach(shapes(G3), Full() if full else lora("qv", 4)):
        found = predict(shapes(G3), batch=1, length=2048)
    return found.papers() | {"step": found.predicted["peak"]}


def _ratio(name: str) -> float:
    return _papers(True)[name] / _papers(False)[name]


VRAM = Paper(
    "vram",
    "GPT-3 175B: memory of fine-tuning, in full and by LoRA with r = 4 on q and v",
    "Hu et al. 2021, abstract and sec. 4.2",
    (
        Row("FT", "1.2 TB", f"{TRAINED} bytes a parameter",
            lambda: _papers(True)["this method with Adam"],
            f"{HALF} for the weight, 2 for its gradient, 12 for a float32 copy and Adam's two "
            "moments; the printed number is 6.9 bytes a parameter, of which the paper gives no "
            "account. Activations are not in it"),
        Row("LoRA", "350 GB", f"{HALF} bytes, {TRAINED} for what trains",
            lambda: _papers(False)["this method with Adam"]),
        Row("less", "3 times", "the ratio of these two",
            lambda: _ratio("this method with Adam"),
            "follows from the first row"),
        Row("checkpoint, FT", "350 GB", f"{HALF} bytes a parameter",
            lambda: _papers(True)["saved per task"],
            "175 billion parameters, where the printed sizes make 174.6"),
        Row("checkpoint, LoRA", "35 MB", f"{HALF} bytes a parameter",
            lambda: _papers(False)["saved per task"],
            "36.0 if a MB is taken for 2^20 bytes; 35 in neither unit"),
        Row("parameters, fewer", "10,000 times", "all over those of LoRA",
            lambda: count(G3, Full()) / count(G3, lora("qv", 4)),
            "the ratio of the two printed checkpoints"),
        Row("a step, FT", "TB", "ledger's peak: float32, 1 x 2048",
            lambda: _papers(True)["step"]),
        Row("a step, LoRA", "TB", "the same", lambda: _papers(False)["step"]),
    ),
)  # fmt: skip

# -- GPT-2 ----------------------------------------------------------------------------------------

M, L = "gpt2-medium", "gpt2-large"
WIDTHS = {"Small": 512, "Base": 768, "Large": 1024, "XL": 2048}  # of T5
PROMPT = Paper(
    "prompt",
    "Prompt tuning: a row of the embedding for each virtual token",
    "Lester et al. 2021, sec. 2 and 3; GPT-2 as counted by PEFT",
    (
        *(Row(f"T5 {size}, 100 tokens", "", "l d, l = 100", partial(operator.mul, 100, d),
              by=FORMULA) for size, d in WIDTHS.items()),
        formula("T5 XXL, 100 tokens", "409,600", "t0-11b", "l d, l = 100", lambda d, L: 100 * d,
                "T0 is a T5 XXL that was trained on"),
        *(counted(f"{name}, 20 tokens", "15,360" if name == "gpt2" else "", name, Prompt(n=20),
                  "l d, l = 20") for name in ("gpt2", M, L)),
    ),
)  # fmt: skip

# -- QLoRA ----------------------------------------------------------------------------------------

SIZES = {"7B": "llama-7b", "13B": "llama-13b", "33B": "llama-33b", "65B": "llama-65b"}
RANK = 64  # of Guanaco
PAGED = TRAINED - 8  # Adam's two moments are elsewhere
GUANACO = {"7B": "6 GB", "13B": "10 GB", "33B": "21 GB", "65B": "41 GB"}


@cache
def stored(model: str, double: bool = True) -> tuple[int, int, int]:
    """Bytes of the codes with their constants, of the rest in half precision, and how many
    parameters stand as codes."""
    with attach(shapes(model), Quantize(double=double)) as at:
        parts = codes_of(at).values()
        coded = sum(p.base.weight.size for p in parts)
        rest = shapes(model).num_parameters() - coded
        return sum(p.nbytes for p in parts), HALF * rest, coded


def _bits(double: bool) -> float:
    codes, _, coded = stored("llama-65b", double)
    return 8 * codes / coded


def _memory(size: str, bytes_each: int) -> Callable[[], float]:
    """The base as codes and so many bytes for each number of the adapter."""

    def compute() -> float:
        codes, rest, _ = stored(SIZES[size])
        return codes + rest + bytes_each * count(SIZES[size], QLoRA(r=RANK))

    return compute


def _qlora_rows() -> Iterator[Row]:
    yield Row("NF4 in blocks of 64", "4.5 bits", "a code and its share of a constant",
              lambda: _bits(False))  # fmt: skip
    yield Row("and constants in 8 bits", "4.127 bits", "the same", lambda: _bits(True))
    yield Row("saved by these", "0.373 bits", "the difference", lambda: _bits(False) - _bits(True))
    yield Row("saved in 65B", "~3 GB", "of the parts that are codes",
              lambda: float(stored("llama-65b", False)[0] - stored("llama-65b")[0]))  # fmt: skip
    for size in SIZES:
        yield Row(f"{size}  as codes", "GB", "embeddings, head and norms in 16 bits",
                  _memory(size, 0))  # fmt: skip
        yield Row(f"{size}  Guanaco", GUANACO[size], f"and an adapter, r = {RANK}, in 16 bits",
                  _memory(size, HALF),
                  "the paper does not say what it counts: the printed number lies between this and "
                  "the rows of training; activations, caches and the decoded weight at work are "
                  "not counted here")  # fmt: skip
        yield Row(f"{size}  training, paged", {"33B": "< 24 GB"}.get(size, "GB"),
                  f"{PAGED} bytes for a number of the adapter", _memory(size, PAGED))  # fmt: skip
        fits = {"33B": "it fits where the moments are paged out, the row above"}
        yield Row(f"{size}  training", {"33B": "< 24 GB", "65B": "< 48 GB"}.get(size, "GB"),
                  f"{TRAINED} bytes: Adam's moments too", _memory(size, TRAINED),
                  fits.get(size, ""))  # fmt: skip
    yield Row("65B  FT in 16 bits", "> 780 GB", "2 weight, 2 gradient, 8 Adam's moments",
              lambda: float((2 + 2 + 8) * shapes("llama-65b").num_parameters()))  # fmt: skip


QLORA = Paper(
    "qlora",
    "QLoRA: memory of LLaMA 7B to 65B",
    "Dettmers et al. 2023, abstract, sec. 3 and table 1",
    tuple(_qlora_rows()),
)

# -- T-Few ----------------------------------------------------------------------------------------

T0 = "t0-3b"  # 24 blocks in the encoder, as many in the decoder


def t0(name: str, printed: str, of: str, value: Callable[[int, int, int], int], why: str = "",
       norms: bool = False) -> Row:  # fmt: skip
    """A row by formula: value(d, L, F) of T0's width, blocks a side and MLP; and its norms."""

    def compute() -> int:
        c = shapes(T0).config
        return value(c.width, c.layers, c.mlp or 4 * c.width) + norms * count(T0, LNTuning())

    return Row(name, printed, of, compute, why, FORMULA)


TFEW = Paper(
    "tfew",
    "T0 with 3B and 11B parameters: what each method trains",
    "Liu et al. 2022, sec. 4.2 and tables of its appendix D",
    (
        counted("Full Model Fine-tuning", "3B", T0, Full(), "all parameters"),
        t0("BitFit (with LayerNorm)", "1.3M", "L (12 d + 4 F), and the norms",
           lambda d, L, F: L * (12 * d + 4 * F),
           "T5 has no biases: these are new. A name in the authors' settings, w_o for wo, fits no "
           "part, so that the MLP's last matrix gets none", norms=True),
        counted("LayerNorm", "250K", T0, LNTuning(), "all norms"),
        t0("Adapter", "12.9M", "2 L (2 d r + r + d), r = 64, and the norms",
           lambda d, L, F: 2 * L * (2 * d * 64 + 64 + d),
           "the printed number is that of one behind each MLP; the text has them behind attention "
           "too", norms=True),
        t0("Prompt tuning (10)", "41K", "2 l d, l = 10", lambda d, L, F: 2 * 10 * d),
        t0("Prompt tuning (100)", "409K", "2 l d, l = 100", lambda d, L, F: 2 * 100 * d, CUT),
        t0("Prefix tuning", "576K", "3 L 2 d l, l = 2", lambda d, L, F: 3 * L * 2 * d * 2,
           "the paper tells no length; 2 in all attentions give 576 times 1024"),
        Row("LoRA", "9.1M", "all Linears, r = 4, and the norms",
            lambda: count(T0, LoRA(r=4, targets="all-linear")) + count(T0, LNTuning())),
        counted("(IA)^3", "540K", T0, IA3(), "L (2 d + F) + L (4 d + F)", CUT),
        Row("(IA)^3 of T0-11B", "4.2 MB", "4 bytes for each of its 1,081,344 numbers",
            lambda: 4 * count("t0-11b", IA3()),
            "they are 4.3 MB, or 4.1 in units of 2^20 bytes; the paper does not tell what 4.2 "
            "counts"),
    ),
)  # fmt: skip

# -- ViT ------------------------------------------------------------------------------------------

VIT = "vit-base"
RANKS = {"tt": {4: 1, 8: 9, 16: 9}, "tk": {16: 6, 32: 13}}  # rank -> of how many of the 19 tasks


def _of_the_tasks(form: str) -> float:
    counts = [n * count(VIT, FacT(r=r, form=form)) for r, n in RANKS[form].items()]
    return sum(counts) / sum(RANKS[form].values())


FACT = Paper(
    "fact",
    "VTAB-1k: what FacT trains in ViT-B/16, without the new classifier",
    "Jie and Deng 2023, table 1; ranks from the authors' settings",
    (
        counted("LoRA", "0.29M", VIT, lora("qv", 8), "q, v, r = 8"),
        *(counted(f"FacT-TT, r = {r}", "8K" if r == 4 else "", VIT, FacT(r=r),
                  "2 d r + 144 r^2") for r in (4, 8, 16)),
        *(counted(f"FacT-TK, r = {r}", "", VIT, FacT(r=r, form="tk"), "2 d r + 144 r + r^3")
          for r in (8, 16, 32)),
        Row("FacT-TT, r <= 16", "0.040M", "mean over 19 tasks", lambda: _of_the_tasks("tt")),
        Row("FacT-TK, r <= 32", "0.069M", "mean over 19 tasks", lambda: _of_the_tasks("tk")),
    ),
)  # fmt: skip

# -- the tables of the file ------------------------------------------------------------------------


def _tables() -> Iterator[Paper]:
    """The tables of tables.toml, whose rows methods on models of shapes give."""
    text = Path(__file__).with_name("tables.toml").read_text(encoding="utf-8")
    for name, table in tomllib.loads(text).items():
        rows = []
        for row in table.pop("rows"):
            kind = get_method(row["method"].pop("name"))
            rows.append(counted(**row | {"method": kind.from_fields(row["method"])}))
        yield Paper(name, rows=tuple(rows), **table)


PAPERS = {paper.name: paper for paper in (*_tables(), VRAM, QLORA, TFEW, PROMPT, FACT)}


def get_paper(name: str) -> Paper:
    """The table of a name; an unknown one is an error that names the nearest."""
    if name not in PAPERS:
        near = nearest(name, PAPERS)
        raise ValueError(f"no table {name!r}; nearest is {near!r}, all: {', '.join(PAPERS)}")
    return PAPERS[name]
