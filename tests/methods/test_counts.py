"""The ledger of counts, row by row: a closed form, its value for known models, and what trains.

Each row says the formula in d (width), L (blocks), V (vocabulary), T (places), and the method's
own settings; it is evaluated and compared with the count on a model of shapes, and both with the
integers that are known.
"""

import dataclasses

import pytest

from minipeft.contract import attach
from minipeft.ledger.papers import shapes
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    Adapter,
    BitFit,
    DoRA,
    FacT,
    Full,
    Infix,
    LinearProbe,
    LNLoRA,
    LNTuning,
    LoftQ,
    LoRA,
    Magnitude,
    Movement,
    Parallel,
    PiSSA,
    Prefix,
    Prompt,
    PTuning,
    QLoRA,
    Quantize,
    Steering,
    Subspace,
    TopK,
    VeRA,
)
from minipeft.nn import Linear
from tests.methods.contract import QKV, evaluated

S, M, L = "gpt2", "gpt2-medium", "gpt2-large"
G3 = "gpt3-175b"
JOINT = {"targets": QKV, "fused": QKV}  # as an adapter on a joint q, k, v matrix
ALL = {**JOINT, "targets": "all-linear"}
FULL = "V * d + T * d + L * (12 * d * d + 13 * d) + 2 * d"
QV = ("q_proj", "v_proj")
QKVO = (*QKV, "o_proj")
ONE = "L * (2 * d * r + r + d)"  # adapter a block
TWO = f"2 * {ONE}"


def row(name, method, formula, **expected):
    return pytest.param(method, formula, expected, id=f"{method.name} {name}".strip())


def gpt2(small, medium, large):
    return {"S": small, "M": medium, "L": large}


LEDGER = [
    row("", Full(), FULL, **gpt2(124_439_808, 354_823_168, 774_030_080)),
    row("k=2", TopK(k=2), "k * (12 * d * d + 13 * d)", **gpt2(14_175_744, 25_192_448, 39_354_880)),
    row("k=1", TopK(k=1), "12 * d * d + 13 * d", BL=12_596_224),
    row("with the final norm", TopK(k=2, ln_f=True), "k * (12 * d * d + 13 * d) + 2 * d",
        M=25_194_496),
    row("", BitFit(), "11 * d * L + d", **gpt2(102_144, 271_360, 508_160)),
    row("norm of the embedding and pooler", BitFit(), "11 * d * L + 2 * d",
        BB=102_912, BL=272_384, RB=102_912),
    row("query and middle", BitFit("qm"), "L * (d + 4 * d)", S=46_080, BB=46_080),
    row("", LNTuning(), "(2 * L + 1) * 2 * d", **gpt2(38_400, 100_352, 186_880)),
    row("norm of the embedding", LNTuning(), "(2 * L + 1) * 2 * d", BB=38_400, BL=100_352),
    row("a head alone", LinearProbe(), "0 * d", BB=0, V=0),
    row("the paper's places", IA3(), "6 * d * L", **gpt2(55_296, 147_456, 276_480)),
    row("PEFT's on GPT-2", IA3((*QKV, "fc_out")), "7 * d * L", **gpt2(64_512, 172_032, 322_560)),
    row("PEFT's on BERT", IA3(("k_proj", "v_proj", "o_proj", "fc_out"), ("o_proj", "fc_out")),
        "7 * d * L", BB=64_512, BL=172_032, RB=64_512),
    row("q, v", LoRA(r=4), "2 * 2 * L * d * r", M=393_216, L=737_280),
    row("q, v, r=8", LoRA(r=8), "2 * 2 * L * d * r", RB=294_912, RL=786_432, V=294_912),
    row("q, v, r=16", LoRA(r=16), "2 * 2 * L * d * r", X=4_718_592),
    *(
        row(f"GPT-3 {len(names)} r={r}", LoRA(r=r, targets=names), f"2 * {len(names)} * L * d * r",
            G3=expected)
        for names, r, expected in (
            (("v_proj",), 2, 4_718_592), (QV, 1, 4_718_592), (QV, 2, 9_437_184),
            (QKVO, 1, 9_437_184), (("q_proj",), 8, 18_874_368), (QV, 4, 18_874_368),
            (QKVO, 2, 18_874_368), (QV, 8, 37_748_736), (QKVO, 4, 37_748_736),
            (QV, 64, 301_989_888), (QKVO, 64, 603_979_776),
        )
    ),
    row("joint", LoRA(r=4, **JOINT), "L * r * 4 * d", **gpt2(147_456, 393_216, 737_280)),
    row("joint r=8", LoRA(r=8, **JOINT), "L * r * 4 * d", **gpt2(294_912, 786_432, 1_474_560)),
    row("joint r=64", LoRA(r=64, **JOINT), "L * r * 4 * d", S=2_359_296),
    row("all", LoRA(r=8, **ALL), "16 * d * L * r", **gpt2(1_179_648, 3_145_728, 5_898_240)),
    row("joint", DoRA(r=4, **JOINT), "L * r * 4 * d + 3 * d * L",
        **gpt2(175_104, 466_944, 875_520)),
    row("joint", VeRA(r=256, **JOINT), "L * (r + 3 * d)", **gpt2(30_720, 79_872, 147_456)),
    row("joint", AdaLoRA(r=12, **JOINT), "L * (4 * d * r + r)",
        **gpt2(442_512, 1_179_936, 2_212_272)),
    row("as LoRA", PiSSA(r=8), "2 * 2 * L * d * r", S=294_912, M=786_432),
    row("as LoRA", LoftQ(r=8, targets=QV), "2 * 2 * L * d * r", S=294_912, M=786_432),
    row("all", QLoRA(r=8), "18 * d * L * r", S=1_327_104),  # q, k, v with an A each
    row("nothing", Quantize(), "0 * d", S=0),
    row("DID", Subspace(d=200), "200 + 0 * d", S=200, BB=200),
    row("SAID, its factors among d", Subspace(d=200, said="layer"), "200 + 0 * d", S=200),
    row("weights and biases", Magnitude(), "L * (12 * d * d + 9 * d)", S=85_017_600),
    row("and scores", Movement(), "L * (24 * d * d + 9 * d)", S=169_952_256),
    row("l=5", Prefix(n=5), "2 * L * d * n", **gpt2(92_160, 245_760, 460_800)),
    row("l=7", Prefix(n=7), "2 * L * d * n", M=344_064),
    row("l=8", Prefix(n=8), "2 * L * d * n", L=737_280),
    row("with an MLP", Prefix(n=5, mlp=512),
        "n * d + (d * mlp + mlp) + (mlp * 2 * L * d + 2 * L * d)", M=25_744_896),
    row("on BERT", Prefix(n=30), "2 * L * d * n", BB=552_960),
    row("of one layer", Prefix(n=5, layers=(0,)), "2 * d * n", S=7_680, V=7_680),
    row("Houlsby r=48", Adapter(r=48), TWO, S=1_789_056, BB=1_789_056),
    row("Houlsby r=8", Adapter(r=8), TWO, RL=835_968, G3=40_109_568),
    row("Houlsby r=64", Adapter(r=64), TWO, RL=6_343_680),
    row("Houlsby r=1", Adapter(r=1), TWO, G3=7_078_080),
    row("Houlsby r=112", Adapter(r=112), TWO, M=11_064_576),
    row("Houlsby and norms", Adapter(r=48, norms=True), f"{TWO} + (2 * L + 1) * 2 * d",
        S=1_789_056 + 38_400),
    row("Pfeiffer r=48", Adapter(r=48, place="pfeiffer"), ONE, S=894_528, RB=894_528, V=894_528),
    row("Pfeiffer r=16", Adapter(r=16, place="pfeiffer"), ONE, RB=304_320, RL=811_392),
    row("Pfeiffer r=64", Adapter(r=64, place="pfeiffer"), ONE, RL=3_171_840),
    row("AdapterDrop", Adapter(r=48, place="pfeiffer", drop=8),
        "(L - drop) * (2 * d * r + r + d)", RB=298_176),
    *(
        row(f"Lin r={r}", Adapter(r=r, place="lin"), "L * (2 * d * r + r + 3 * d)", **expected)
        for r, expected in ((6, {"M": 368_784}), (224, {"M": 11_089_152}), (8, {"L": 875_808}),
                            (248, {"L": 23_002_848}))
    ),
    row("r=48", Parallel(r=48), ONE, S=894_528),
    row("r=384", Parallel(r=384), ONE, S=7_091_712, BB=7_091_712),
    row("l=5", Infix(n=5), "2 * L * d * n", **gpt2(92_160, 245_760, 460_800)),
    row("l=20", Prompt(n=20), "n * d", S=15_360),
    row("PrefixEmbed, 8 of 264 in the text", Prompt(n=264, template="{}...{8} A:"), "n * d",
        G3=3_244_032),
    row("PrefixLayer, 8 and 8", Prompt(n=16, template="{}...{8} A:", deep=True), "L * d * n",
        G3=18_874_368),
    row("MLP l=20 h=128", PTuning(n=20, h=128),
        "n * d + (d * h + h) + (h * h + h) + (h * d + d)", S=229_376),
    row("LSTM l=20 h=128", PTuning(n=20, h=128, encoder="lstm"),
        "n * d + 2 * (4 * h * (d + h) + 8 * h) + 2 * (4 * h * (2 * h + h) + 8 * h)"
        " + (2 * h * 2 * h + 2 * h) + (2 * h * d + d)", S=1_593_344),
    row("18 d in and out, 9 d in", LNLoRA(r=16), "(18 * r + 18) * d * L", V=2_820_096),
    *(
        row(f"TT r={r}", FacT(r=r), "2 * d * r + 12 * L * r * r", V=expected)
        for r, expected in ((4, 8_448), (8, 21_504), (16, 61_440))
    ),
    *(
        row(f"TK r={r}", FacT(r=r, form="tk"), "2 * d * r + 12 * L * r + r ** 3", V=expected)
        for r, expected in ((8, 13_952), (16, 30_976), (32, 86_528))
    ),
    row("embeddings alone", PTuning(n=20, encoder="embedding"), "n * d", S=15_360),
    row("48 heads, none of them trained", Steering(k=48), "0", S=0, G3=0, BB=0),
]  # fmt: skip
MODELS = {
    "S": S, "M": M, "L": L, "G3": G3, "BB": "bert-base", "BL": "bert-large", "V": "vit-base",
    "RB": "roberta-base", "RL": "roberta-large", "X": "deberta-xxl",
}  # fmt: skip


@pytest.mark.parametrize(("method", "formula", "expected"), LEDGER)
def test_formula_and_count_are_the_known_integers(method, formula, expected):
    for short, number in expected.items():
        model = shapes(MODELS[short])
        c = model.config
        names = {"d": c.width, "L": c.layers, "V": getattr(c, "vocab", 0)}
        names |= {"T": getattr(c, "context", 0)}
        fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
        with attach(model, method) as at:
            assert at.count() == number, short
        assert evaluated(formula, {**fields, **names}) == number, short


def test_every_method_has_its_row():
    assert set(METHODS) == {param.values[0].name for param in LEDGER}, "a method lacks its row"


def test_veras_frozen_matrices_are_r_4_d():
    with attach(shapes(S), VeRA(r=256, **JOINT)) as at:
        w = next(iter(at.wrappers.values()))
        assert w.A.size + 3 * w.B.size == 256 * 4 * 768


def test_a_block_is_12_d_squared_and_13_d():
    for name in (S, M, L, "gpt2-xl", "bert-base", "bert-large"):
        model = shapes(name)
        d = model.config.width
        assert sum(p.size for p in model.blocks[0].parameters()) == 12 * d * d + 13 * d


@pytest.mark.parametrize(
    ("name", "total"),
    [("gpt2-xl", 1_557_611_200), ("bert-base", 109_482_240), ("bert-large", 335_141_888),
     ("roberta-base", 124_645_632), ("roberta-large", 355_359_744)],
)  # fmt: skip
def test_base_models_without_a_new_head(name, total):
    with attach(shapes(name), Full()) as at:
        assert at.count() == total


def test_the_net_of_the_intrinsic_dimension_paper():
    sizes = ((784, 200), (200, 200), (200, 10))
    layers = [Linear(d_in, d_out) for d_in, d_out in sizes]
    assert sum(layer.num_parameters() for layer in layers) == 199_210
