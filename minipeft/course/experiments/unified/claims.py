"""What is claimed where methods are compared: read off the results of this folder, or counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from minipeft.course.experiments.claims import Claim, Finding, cannot, compared
from minipeft.course.experiments.claims import counted as count
from minipeft.course.experiments.runner import results
from minipeft.course.experiments.unified.runs import ARMS, FEW, MANY, TABLE
from minipeft.course.method_map import method_map

HE, CS769, OWN = "He et al. 2022", "UW-Madison CS769", "the lecture's own question"
ROWS, WAYS = f"{CS769}, its table of five rows", f"{CS769}, its three compositions"
TUNED, BASE = [m for m in TABLE if m != "full"], 887_808
NATS, the_map = " nats a token", cache(method_map)
_claim = partial(Claim, lecture="15_unified")


def arm(name: str, split: str = "seen") -> list[float]:
    """Losses of an arm on new records, seed by seed."""
    return results("unified_places").where(split, arm=name, lr=ARMS[name][1])


def row(method: str, outcome: str, n: int = MANY) -> list[float]:
    """An outcome of a method, seed by seed."""
    return results("unified_rows").where(outcome, method=method, n=n)


def shown() -> list[float]:
    """Accuracy of the frozen base with FEW solved examples in front of each question."""
    return results("prompt_shots").where("accuracy", base="tiny-gpt", k=FEW)


def _place(better: str, other: str) -> Finding:
    return compared(arm(other), arm(better), NATS)


def _merging(way: str, wanted: bool) -> Finding:
    """Whether all methods that compose in this way merge, or none."""
    rows = [r for r in the_map() if r["compose"] == way]
    others = [r["method"] for r in rows if (r["merges"] != "no") != wanted]
    return count(f"not {', '.join(others)}" if others else f"{len(rows)} methods", not others)


def _farther() -> Finding:
    """Top-2 moves the weights six times as far as BitFit."""
    found = results("subset_forgetting")
    top, bias = (found.where("text", task="remap-values", method=m, slower=1)
                 for m in ("top-2", "bitfit"))  # fmt: skip
    return compared([x[-1] for x in top], [x[-1] for x in bias], NATS)


def _sizes() -> Finding:
    most = max(row(m, "trainable")[0] for m in TUNED)
    return count(f"at most {most:,.0f} of {BASE:,}", most < BASE / 20)


def _time() -> Finding:
    full, lora = (results("subset_cost").mean("step", method=m) for m in ("full", "lora"))
    return count(f"{lora:.0f} against {full:.0f} ms", lora < full, "one machine's clock")


PLACES = (  # who is better, than whom, where He et al. say so
    ("Beside the MLP is better than behind it", "parallel", "sequential", "4.3"),
    ("Scaled by 4 is better than unscaled", "scaled", "parallel", "4.5"),
    ("The MLP is a better place than attention", "parallel", "attention", "4.4"),
    ("Mix-and-Match is better than a prefix alone", "mix", "prefix", "4.6"),
    ("Mix-and-Match is better than a scaled adapter alone", "mix", "scaled", "4.6"),
)
MERGING = (
    ("Parameter composition adds nothing: all its methods merge", "parameter", True),
    ("Function composition adds modules: none of its methods merges", "function", False),
    ("Input composition lengthens the context: none of its methods merges", "input", False),
)
VERSUS: tuple[tuple[str, Callable[[str], Finding]], ...] = (  # of each method but full
    ("Performance: {} is as good as full fine-tuning (2 points)",
     lambda m: compared(row(m, "accuracy"), row("full", "accuracy"), " %", margin=2.0)),
    (f"Data: with {FEW} examples {{}} is above full fine-tuning",
     lambda m: compared(row(m, "accuracy", FEW), row("full", "accuracy", FEW), " %")),
    (f"Data: {FEW} examples teach {{}} more than they do in a prompt",
     lambda m: compared(row(m, "accuracy", FEW), shown(), " %")),
    ("Forgetting: {} forgets less than full fine-tuning",
     lambda m: compared(row("full", "text"), row(m, "text"), NATS)),
)  # fmt: skip
CLAIMS = (
    *(_claim(f"{text} (new records, nats)", f"{HE}, section {where}", "figure 2",
             partial(_place, better, other)) for text, better, other, where in PLACES),
    _claim("Mix-and-Match is as good as full fine-tuning with 6.7 % of the parameters (XSum)",
           f"{HE}, table 6", "section 4", cannot("BART and XSum are not here; quoted")),
    _claim("With 0.5 % of the parameters it is as good on MNLI and SST-2", f"{HE}, table 2",
           "section 4", cannot("RoBERTa and GLUE are not here; quoted")),
    *(_claim(text, WAYS, "section 2", partial(_merging, way, all_merge))
      for text, way, all_merge in MERGING),
    *(_claim(text.format(m), ROWS, "section 6", partial(measure, m))
      for text, measure in VERSUS for m in TUNED),
    _claim("Parameters: every method trains under 5 % of the model", ROWS, "section 6", _sizes),
    _claim("Time: a step of LoRA is faster than one of full fine-tuning", ROWS, "section 6", _time),
    _claim("The weights that go farther forget more: IA3 above LoRA (remap-route)", OWN, "figure 3",
           lambda: compared(row("ia3", "text"), row("lora", "text"), NATS)),
    _claim("The weights that go farther forget more: top-2 above BitFit (remap-values)", OWN,
           "figure 3", _farther),
)  # fmt: skip
