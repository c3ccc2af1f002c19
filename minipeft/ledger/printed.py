"""The tables of the slides in which the methods so far and their base models appear."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import cache, partial

from minipeft.checks import nearest
from minipeft.contract import Method, attach
from minipeft.ledger.papers import FORMULA, Paper, Row, count, shapes
from minipeft.ledger.step import predict
from minipeft.ledger.table import HALF, TRAINED
from minipeft.methods import (
    IA3,
    Adapter,
    BitFit,
    FacT,
    Full,
    LNTuning,
    LoRA,
    Prefix,
    Prompt,
    PTuning,
    QLoRA,
    Quantize,
    TopK,
)
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


def houlsby(r: int) -> Adapter:
    """Two bottlenecks in each block."""
    return Adapter(r=r)


def lin(r: int) -> Adapter:
    """One bottleneck in each block, and a norm before it."""
    return Adapter(r=r, place="lin")


def pfeiffer(r: int) -> Adapter:
    """One bottleneck in each block."""
    return Adapter(r=r, place="pfeiffer")


# -- GPT-3 ----------------------------------------------------------------------------------------

G3 = "gpt3-175b"
CUT = "the printed number is cut off, not rounded"
GPT3 = Paper(
    "gpt3",
    "GPT-3 175B: what each method trains",
    "Hu et al. 2021, table 4",
    (
        counted("FT", "175,255.8M", G3, Full(), "all parameters",
                "the paper gives no account; a head that is not tied would add V d = 617.6M of the "
                "651.5M that are missing", "73.8 89.5 52.0/28.0/44.5"),
        counted("BitFit", "14.2M", G3, BitFit(), "all biases",
                "a block has 11 d of biases, and the final norm d; 12 d for each block would give "
                "the printed number", "71.3 91.0 51.3/27.4/43.5"),
        counted("PreEmbed", "3.2M", G3, Prompt(n=256 + 8), "d (256 + 8)",
                scores="63.1 88.6 48.3/24.2/40.5"),
        counted("PreLayer", "20.2M", G3, Prompt(n=8 + 8, deep=True), "L d (8 + 8)",
                "the paper's own formula for its lengths (8, 8) does not give the printed number",
                "70.1 89.5 50.8/27.3/43.5"),
        counted("Adapter^H", "7.1M", G3, houlsby(1), "2 L (2 d r + r + d), r = 1",
                scores="71.9 89.8 53.0/28.9/44.8"),
        counted("Adapter^H", "40.1M", G3, houlsby(8), "2 L (2 d r + r + d), r = 8",
                scores="73.2 91.5 53.2/29.0/45.1"),
        counted("LoRA", "4.7M", G3, lora("qv", 1), "q, v, r = 1",
                scores="73.4 91.7 53.8/29.8/45.9"),
        counted("LoRA", "37.7M", G3, lora("qv", 8), "q, v, r = 8",
                scores="74.0 91.6 53.2/29.2/45.1"),
    ),
    "WikiSQL MNLI SAMSum",
)  # fmt: skip

GPT3_RANKS = Paper(
    "gpt3-ranks",
    "GPT-3 175B: what LoRA trains, by matrices and rank",
    "Hu et al. 2021, tables 5, 6 and those of its appendix",
    tuple(
        counted(", ".join(letters), printed, G3, lora(letters, r), f"r = {r}", why)
        for letters, r, printed, why in (
            ("v", 2, "4.7M", ""),
            ("qv", 1, "4.7M", ""),
            ("qv", 2, "9.4M", ""),
            ("qkvo", 1, "9.4M", ""),
            ("q", 8, "18M", CUT),
            ("qv", 4, "18.8M", CUT),
            ("qkvo", 2, "18.8M", CUT),
            ("qv", 8, "37.7M", ""),
            ("qkvo", 4, "37.7M", ""),
            ("qv", 64, "301.9M", CUT),
            ("qkvo", 64, "603.8M", "twice a number that was cut off before"),
        )
    ),
)


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
TENTH = (
    "0.1 % of the model: the share that the prefix paper states for its own method; "
    "microsoft/LoRA's issues 148 and 172 count as here"
)
E2E = Paper(
    "e2e",
    "E2E NLG: what each method trains in GPT-2 medium and large",
    "Hu et al. 2021, table 3; rows with * are taken there from earlier papers",
    (
        counted("M  FT*", "354.92M", M, Full(), "all parameters",
                "not reproduced; with the 48 norms of the blocks counted twice it would be 354.92M",
                "68.2 8.62 46.2 71.0 2.47"),
        counted("M  Adapter^L*", "0.37M", M, lin(6), "L (2 d r + r + 3 d), r = 6",
                "the rank is inferred from the count", "66.3 8.41 45.0 69.8 2.40"),
        counted("M  Adapter^L*", "11.09M", M, lin(224), "the same, r = 224",
                "the rank is inferred from the count", "68.9 8.71 46.1 71.3 2.47"),
        counted("M  Adapter^H", "11.09M", M, houlsby(112), "2 L (2 d r + r + d), r = 112",
                "no rank gives the printed number, which is that of the row above",
                "67.3 8.50 46.0 70.7 2.44"),
        counted("M  FT-Top2*", "25.19M", M, TopK(k=2), "the last two blocks",
                scores="68.1 8.59 46.0 70.8 2.41"),
        counted("M  PreLayer*", "0.35M", M, Prefix(n=7), "2 L d l, l = 7",
                f"no length l gives the printed number: {TENTH}", "69.7 8.81 46.1 71.4 2.49"),
        counted("M  LoRA", "0.35M", M, lora("qv", 4), "q, v, r = 4", TENTH,
                "70.4 8.85 46.8 71.8 2.53"),
        counted("L  FT*", "774.03M", L, Full(), "all parameters",
                scores="68.5 8.78 46.0 69.9 2.45"),
        counted("L  Adapter^L", "0.88M", L, lin(8), "L (2 d r + r + 3 d), r = 8",
                scores="69.1 8.68 46.3 71.4 2.49"),
        counted("L  Adapter^L", "23.00M", L, lin(248), "the same, r = 248",
                scores="68.9 8.70 46.1 71.3 2.45"),
        counted("L  PreLayer*", "0.77M", L, Prefix(n=8), "2 L d l, l = 8",
                f"no length l gives the printed number: {TENTH}", "70.3 8.85 46.2 71.7 2.47"),
        counted("L  LoRA", "0.77M", L, lora("qv", 4), "q, v, r = 4", TENTH,
                "70.4 8.89 46.8 72.0 2.47"),
    ),
    "BLEU NIST MET ROUGE-L CIDEr",
)  # fmt: skip

SHARE = "the paper prints a share of the model alone; the rank is inferred"
PREFIX = Paper(
    "prefix",
    "Prefix tuning: what each method trains in GPT-2 medium and large",
    "Li and Liang 2021, table 1",
    (
        counted("M  Fine-tune", "M", M, Full(), "all parameters",
                scores="68.2 8.62 46.2 71.0 2.47 64.2 27.7 46.5 46.2"),
        counted("M  FT-Top2", "M", M, TopK(k=2), "the last two blocks",
                scores="68.1 8.59 46.0 70.8 2.41 53.6 18.9 36.0 41.0"),
        counted("M  Adapter (3 %)", "M", M, lin(224), "L (2 d r + r + 3 d), r = 224", SHARE,
                "68.9 8.71 46.1 71.3 2.47 60.4 48.3 54.9 45.2"),
        counted("M  Adapter (0.1 %)", "M", M, lin(6), "the same, r = 6", SHARE,
                "66.3 8.41 45.0 69.8 2.40 54.5 45.1 50.2 42.4"),
        counted("M  Prefix (0.1 %)", "0.25M", M, Prefix(n=5), "2 L d l, l = 5",
                "while it trains, an MLP of 512 units makes it: 25.7M parameters",
                "69.7 8.81 46.1 71.4 2.49 62.9 45.6 55.1 46.4"),
        counted("L  Fine-tune", "M", L, Full(), "all parameters",
                scores="68.5 8.78 46.0 69.9 2.45 65.3 43.1 55.5 47.0"),
        counted("L  Prefix", "M", L, Prefix(n=5), "2 L d l, l = 5",
                scores="70.3 8.85 46.2 71.7 2.47 63.4 47.7 56.3 46.7"),
    ),
    "BLEU NIST MET ROUGE-L CIDEr WebNLG-seen -unseen -all DART",
)  # fmt: skip

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

PEFT_PRINTS = {("gpt2", "mlp"): "229,376", ("gpt2", "lstm"): "1,593,344"}
PTUNING = Paper(
    "ptuning",
    "P-tuning: 20 pseudo-tokens and the encoder that makes them, 128 wide",
    "Liu et al. 2021, GPT Understands, Too; counted by PEFT for GPT-2 small",
    tuple(
        counted(f"{model}, {encoder}", PEFT_PRINTS.get((model, encoder), ""), model,
                PTuning(n=20, encoder=encoder), told)
        for model in ("gpt2", M, L)
        for encoder, told in (("mlp", "l d + (d h + h) + (h h + h) + (h d + d)"),
                              ("lstm", "l d, two layers in two directions, then 2 h, 2 h, d"),
                              ("embedding", "l d; no encoder"))
    ),
)  # fmt: skip

# -- RoBERTa and DeBERTa --------------------------------------------------------------------------

RB, RL, XXL = "roberta-base", "roberta-large", "deberta-xxl"
WHOLE = "printed in whole millions with a zero behind"
BINARY = "agrees if a million is taken for 2^20"
GLUE = Paper(
    "glue",
    "GLUE: what each method trains in RoBERTa and DeBERTa, without the new classifier",
    "Hu et al. 2021, table 2",
    (
        counted("base  FT", "125.0M", RB, Full(), "encoder and pooler", WHOLE,
                "87.6 94.8 90.2 63.6 92.8 91.9 78.7 91.2 86.4"),
        counted("base  BitFit", "0.1M", RB, BitFit(), "all biases",
                "its scores come from another paper; those of QQP and MRPC look like F1, where the "
                "others are accuracies: do not rank it by them",
                "84.7 93.7 92.7 62.0 91.8 84.0 81.5 90.8 85.2"),
        counted("base  Adpt^D", "0.3M", RB, pfeiffer(16), "L (2 d r + r + d), r = 16",
                "the paper gives no rank; this one fits",
                "87.1 94.2 88.5 60.8 93.1 90.2 71.5 89.7 84.4"),
        counted("base  Adpt^D", "0.9M", RB, pfeiffer(48), "the same, r = 48",
                "the paper gives no rank; this one fits",
                "87.3 94.7 88.4 62.6 93.0 90.6 75.9 90.3 85.4"),
        counted("base  LoRA", "0.3M", RB, lora("qv", 8), "q, v, r = 8",
                scores="87.5 95.1 89.7 63.4 93.3 90.8 86.6 91.5 87.2"),
        counted("large  FT", "355.0M", RL, Full(), "encoder and pooler", WHOLE,
                "90.2 96.4 90.9 68.0 94.7 92.2 86.6 92.4 88.9"),
        counted("large  LoRA", "0.8M", RL, lora("qv", 8), "q, v, r = 8",
                scores="90.6 96.2 90.9 68.2 94.9 91.6 87.4 92.6 89.0"),
        counted("large  Adpt^P", "3.0M", RL, pfeiffer(64), "L (2 d r + r + d), r = 64", BINARY,
                "90.2 96.1 90.2 68.3 94.8 91.9 83.8 92.1 88.4"),
        counted("large  Adpt^P", "0.8M", RL, pfeiffer(16), "the same, r = 16",
                scores="90.5 96.6 89.7 67.8 94.8 91.7 80.1 91.9 87.9"),
        counted("large  Adpt^H", "6.0M", RL, houlsby(64), "2 L (2 d r + r + d), r = 64", BINARY,
                "89.9 96.2 88.7 66.5 94.7 92.1 83.4 91.0 87.8"),
        counted("large  Adpt^H", "0.8M", RL, houlsby(8), "the same, r = 8",
                scores="90.3 96.3 87.7 66.3 94.7 91.5 72.9 91.5 86.4"),
        counted("large  LoRA, as adapters", "0.8M", RL, lora("qv", 8), "q, v, r = 8",
                scores="90.6 96.2 90.2 68.2 94.8 91.6 85.2 92.3 88.6"),
        counted("XXL  FT", "1500.0M", XXL, Full(), "the encoder",
                "the size that the model goes by; its published configuration has more",
                "91.8 97.2 92.0 72.0 96.0 92.7 93.9 92.9 91.1"),
        counted("XXL  LoRA", "4.7M", XXL, lora("qv", 16), "q, v, r = 16",
                scores="91.9 96.9 92.6 72.4 96.0 92.9 94.9 93.0 91.3"),
    ),
    "MNLI SST-2 MRPC CoLA QNLI QQP RTE STS-B mean",
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
        *(counted(f"FacT-TT, r = {r}", "", VIT, FacT(r=r), "2 d r + 144 r^2") for r in (4, 8, 16)),
        *(counted(f"FacT-TK, r = {r}", "", VIT, FacT(r=r, form="tk"), "2 d r + 144 r + r^3")
          for r in (8, 16, 32)),
        Row("FacT-TT, r <= 16", "0.040M", "mean over 19 tasks", lambda: _of_the_tasks("tt")),
        Row("FacT-TK, r <= 32", "0.069M", "mean over 19 tasks", lambda: _of_the_tasks("tk")),
    ),
)  # fmt: skip

PAPERS = {
    paper.name: paper
    for paper in (GPT3, GPT3_RANKS, VRAM, E2E, GLUE, QLORA, TFEW, PREFIX, PROMPT, PTUNING, FACT)
}


def get_paper(name: str) -> Paper:
    """The table of a name; an unknown one is an error that names the nearest."""
    if name not in PAPERS:
        near = nearest(name, PAPERS)
        raise ValueError(f"no table {name!r}; nearest is {near!r}, all: {', '.join(PAPERS)}")
    return PAPERS[name]
