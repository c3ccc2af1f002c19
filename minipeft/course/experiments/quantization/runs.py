"""What is claimed of quantization and QLoRA, put to the test in miniature.

A model in few bits is compared with the same model in floats, on held-out documents (how far its
distribution of the next token went, in nats) and on tasks that the base can do untrained. Then
LoRA is trained over codes, and what each way of merging keeps is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import Attached, Method, attach
from minipeft.corpus.stream import documents
from minipeft.course.experiments.runner import BASE, Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import trial
from minipeft.engine import no_grad, running
from minipeft.generation.scoring import score_many
from minipeft.methods import LoftQ, LoRA, QLoRA, Quantize
from minipeft.methods.quant import codes_of
from minipeft.models.inputs import pad
from minipeft.storage.checkpoint import load_model
from minipeft.tasks import get_task
from minipeft.training.evaluation import evaluate
from minipeft.world.narrators import probes
from minipeft.world.town import World

Vector = np.ndarray

SEEDS = (0, 1, 2, 3, 4)
LADDER = ("gpt-0.2m", "tiny-gpt", "gpt-3.1m")  # the same text, three sizes
CODES = ("int8", "nf4", "fp4", "fp4-bnb", "int4", "nf3", "int3", "nf2", "int2")
BY_BLOCK = ("int8", "nf4", "fp4", "fp4-bnb", "int4", "int3")
BLOCKS = (16, 32, 64, 128, 256, 1024, 0)  # 0: one constant for the whole weight
DOCS, ROUNDS = 200, 100  # held-out documents, and resamples of them
FLOAT = 16  # bits of a number that is not quantized, as the files store it

PAPER_GB = {"7B": 6, "13B": 10, "33B": 21, "65B": 41}  # Dettmers et al. 2023, of Guanaco


# -- how far a model moves -------------------------------------------------------------------------


@cache
def held_out(docs: int) -> list[str]:
    """Documents that no pretraining has read."""
    return [d.text for d in islice(documents(World(0), 2, split="validation"), docs)]


def log_softmax(logits: Vector) -> Vector:
    """In float64.  (..., V) -> (..., V)"""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x


def per_document(model: Any, at: Attached | None, texts: Sequence[str]) -> dict[str, Vector]:
    """Sums over each document's tokens: what a model loses by a handle that is attached to it.

    Returns  kl (of the base's next-token distribution to the model's, in nats), nll and base_nll
             (of the text), tokens: each (documents,)
    """
    tokenizer, end = model.tokenizer, model.tokenizer.end_id
    ids = [[*tokenizer.encode(t), end][: model.config.context] for t in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # those of like length together
    found = np.zeros((4, len(ids)))
    for start in range(0, len(ids), 8):
        rows = order[start : start + 8]
        tokens = pad([ids[i] for i in rows], tokenizer.pad_id)  # (B, T)
        with no_grad():
            q = log_softmax(model(tokens).data)
            if at is None:
                p = q
            else:
                with running(off=(at,)):
                    p = log_softmax(model(tokens).data)
        for row, i in enumerate(rows):
            n = len(ids[i]) - 1  # tokens that are foretold
            at_, is_ = np.arange(n), tokens[row, 1 : n + 1]
            lp, lq = p[row, :n], q[row, :n]
            kl = float((np.exp(lp) * (lp - lq)).sum())
            found[:, i] = kl, -lq[at_, is_].sum(), -lp[at_, is_].sum(), n
    return dict(zip(("kl", "nll", "base_nll", "tokens"), found, strict=True))


def bootstrap(sums: Vector, tokens: Vector, rounds: int = ROUNDS, seed: int = 0) -> list[float]:
    """Means per token over documents drawn again and again, with replacement.

    With the same seed two models are scored on the same draws, so differences are paired.
    """
    draws = Rng(seed, "bootstrap").integers(0, len(sums), (rounds, len(sums)))
    means = sums[draws].sum(axis=1) / tokens[draws].sum(axis=1)
    return [round(float(m), 6) for m in means]


def total_bits(model: Any, at: Attached | None) -> dict[str, int]:
    """Bits of the weights that codes stand for, and of the whole model with the rest in halves."""
    layers = codes_of(at) if at else {}
    packed = 8 * sum(w.nbytes for w in layers.values())
    behind = sum(w.base.weight.size for w in layers.values())
    rest = model.num_parameters() - behind
    return {"bits_linear": packed, "linear": behind, "bits": packed + FLOAT * rest}


def quantize(s: Settings) -> Method:
    """The method that a run's settings name."""
    return Quantize(code=s["code"], block=s.get("block", 64), double=s.get("double", True))


# -- which code, which block -----------------------------------------------------------------------


_loss = grid(
    base=Axis(LADDER, fast=BASE), code=Axis(CODES, fast="nf4"), block=64, double=True,
    docs=Axis(DOCS, fast=12),
) + grid(
    base=BASE, code=Axis(BY_BLOCK, fast=()), block=BLOCKS, double=False, docs=DOCS
)  # fmt: skip


def loss(s: Settings) -> Outcome:
    """What the held-out documents cost under codes: KL to the base and perplexity.

    kl_boot, nll_boot  the same over resampled documents; the draws are the same in all runs
    """
    model = base(s["base"])
    with attach(model, quantize(s)) as at:
        found = per_document(model, at, held_out(s["docs"]))
        size = total_bits(model, at)
    tokens = found["tokens"]

    def per_token(name: str) -> float:
        return float(found[name].sum() / tokens.sum())

    return {
        "kl": per_token("kl"),
        "perplexity": float(np.exp(per_token("nll"))),
        "base_perplexity": float(np.exp(per_token("base_nll"))),
        "kl_boot": bootstrap(found["kl"], tokens),
        "nll_boot": bootstrap(found["nll"], tokens),
        **size,
    }


# -- outliers --------------------------------------------------------------------------------------

FACTORS = (1, 4, 16, 64)


def with_outliers(model: Any, factor: float, seed: int) -> None:
    """Make one input of every Linear after a norm larger, and its weights; change no output.

    The norm's gain and bias of one channel are divided by `factor`, the weights that read it are
    multiplied: exact for a power of two. Trained models of some size grow such columns themselves.
    """
    for i, block in enumerate(model.blocks):
        for name, readers in {"ln_1": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
                              "ln_2": ("mlp.fc_in",)}.items():  # fmt: skip
            norm = block.get(name)
            j = int(Rng(seed, i, name).integers(0, model.config.width, (1,))[0])
            for p in (norm.weight, norm.bias):
                p.data[j] /= factor
            for reader in readers:
                block.get(reader).weight.data[:, j] *= factor


_outliers = grid(
    code=always(("int8", "nf4")), block=(16, 64, 0), factor=FACTORS, seed=SEEDS,
    docs=Axis(60, fast=12),
)  # fmt: skip


def outliers(s: Settings) -> Outcome:
    """KL of a model in codes to itself in floats, when some columns of its weights are large."""
    model = load_model(BASE)
    texts = held_out(s["docs"])
    ids = pad([model.tokenizer.encode(t) for t in texts[:4]], model.tokenizer.pad_id)
    with no_grad():
        before = model(ids).data
        with_outliers(model, s["factor"], s["seed"])
        same = bool((model(ids).data == before).all())  # a factor of 2 to the n is exact
    with attach(model, Quantize(code=s["code"], block=s["block"], double=False)) as at:
        found = per_document(model, at, texts)
    return {"kl": float(found["kl"].sum() / found["tokens"].sum()), "same": same}


# -- accuracy by bits ------------------------------------------------------------------------------

ZERO_SHOT = ("facts", "choice", "remap", "sentiment", "sentiment-shift")
CHANCE = {"facts": 50.0, "choice": 25.0, "remap": 12.5, "sentiment": 50.0, "sentiment-shift": 50.0}


def accuracy(model: Any, task: str, n: int, seed: int) -> float:
    """Percent right on n questions of a draw, untrained.

    facts  which of the true value and the myth follows "The town register says that …"
    """
    if task != "facts":
        return evaluate(model, get_task(task), "test", n=n, seed=seed)["accuracy"]
    asked = probes(World(0))
    chosen = Rng(seed, "facts").permutation(len(asked))[:n].tolist()
    scores = score_many(model, [(asked[i][0], asked[i][2:]) for i in chosen])
    return 100 * float(np.mean([true > myth for true, myth in scores]))


_zero_shot = grid(
    base=Axis(LADDER, fast=BASE), code=Axis(("float", *CODES), fast="nf4"), seed=SEEDS,
    n=Axis(200, fast=10),
)  # fmt: skip


def zero_shot(s: Settings) -> Outcome:
    """Accuracy of five tasks that nobody trained for, and the bits of the model."""
    model = base(s["base"])

    def scores() -> Outcome:
        found = {t: accuracy(model, t, s["n"], s["seed"]) for t in ZERO_SHOT}
        return found | {"mean": float(np.mean(list(found.values())))}

    if s["code"] == "float":
        linear = [w.base.weight.size for w in _linears(model)]
        size = total_bits(model, None) | {"linear": sum(linear), "bits_linear": FLOAT * sum(linear)}
        return scores() | size
    with attach(model, quantize(s)) as at:
        return scores() | total_bits(model, at)


def _linears(model: Any) -> list[Any]:
    """What codes would stand for."""
    with attach(model, Quantize()) as at:
        return list(at.wrappers.values())


# -- training over codes ---------------------------------------------------------------------------

TASKS = {"sentiment": 100, "remap-values": 300}  # task -> steps
ALL = "all-linear"
TRAINED: dict[str, Method] = {
    "lora": LoRA(r=8, targets=ALL),
    **{f"qlora {code}": QLoRA(r=8, code=code)
       for code in ("int8", "nf4", "fp4", "fp4-bnb", "nf3", "nf2")},
    "loftq nf2": LoftQ(r=8, code="nf2"),
}  # fmt: skip
AFTER = ("nf4", "nf3", "nf2")  # codes for a model that was trained in floats


_training = grid(
    task=TASKS, method=Axis(TRAINED, fast="qlora nf4"), seed=SEEDS,
    steps=lambda s: Axis(TASKS[s["task"]], fast=2), n=Axis(300, fast=20),
)  # fmt: skip


def training(s: Settings) -> Outcome:
    """Train over codes, then merge by each policy; over floats, then round what was trained.

    accuracy     of the adapter beside the codes; `start` before training
    dequantize   merged, kept as floats
    requantize   merged, rounded to codes again
    floats       the adapter that was trained over codes, put on the base in floats
    after_CODE   trained over floats, merged, and rounded to codes then
    """
    model, data, method = base(), get_task(s["task"]), TRAINED[s["method"]]
    found: Outcome = {}

    def note(name: str) -> None:
        scored = evaluate(model, data, "test", n=s["n"])
        found[name], found[f"{name}_loss"] = scored["accuracy"], scored["loss"]

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        with trial(model, method, data, s["seed"]) as it:
            note("start")
            it.fit(steps=s["steps"])
            note("accuracy")
            found["trainable"] = it.at.count()
            it.at.save(file)
            learned = {path: p.data.copy() for path, p in it.at.trainable()}
        if s["method"] == "lora":
            for code in AFTER:
                at = attach(model, method)
                at.load(file)
                at.merge(keep=True)
                with attach(model, Quantize(code=code)):
                    note(f"after_{code}")
                at.detach()
            return found
        for policy in ("dequantize", "requantize"):
            at = attach(model, method)
            at.load(file)
            at.merge(keep=True, quantized=policy)
            note(policy)
            at.detach()
        with attach(model, LoRA(r=8, alpha=method.alpha, targets=ALL)) as at:  # type: ignore[attr-defined]
            for path, p in at.trainable():
                p.data = learned[path]
            note("floats")
    return found


# -- a riddle --------------------------------------------------------------------------------------


def colleague(at: Attached) -> None:
    """Breaks a quantized model: the lecture asks what is wrong with it. Read this afterwards.

    The codes of three parts are packed by another program, which puts the earlier one of two
    codes into the low half of a byte.
    """
    for path in list(codes_of(at))[2::6][:3]:
        part = codes_of(at)[path]
        part.packed = (part.packed << 4 | part.packed >> 4).astype(np.uint8)


EXPERIMENTS = (
    Experiment("quant_loss", "What does a model lose in few bits, by code and block size?", _loss,
               loss, bases=LADDER),
    Experiment("quant_outliers", "What do large columns do to codes, by block size?", _outliers,
               outliers),
    Experiment("quant_zero_shot", "How many bits should a number have, at equal bits of a model?",
               _zero_shot, zero_shot, bases=LADDER),
    Experiment("quant_training", "Does LoRA over codes reach LoRA over floats, and what does "
               "merging keep?", _training, training),
)  # fmt: skip
