"""The list of claims: what makes a verdict, and that the committed list is the one that results
make."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from minipeft.course.experiments import CLAIMS, EXPERIMENTS, claims
from minipeft.course.experiments.claims import (
    ABSENT,
    CANNOT,
    CONTROL,
    HELD,
    OPPOSITE,
    UNDECIDED,
    Claim,
    Finding,
    as_markdown,
    compared,
    concordance,
)
from minipeft.course.experiments.lora import claims as lora_claims
from minipeft.course.experiments.lora_family import claims as lora_family_claims
from minipeft.course.experiments.runner import Results
from minipeft.course.experiments.subsets import claims as subset_claims
from minipeft.course.notebooks import folder


def test_the_committed_list_is_what_the_results_give():
    written = (folder() / "CLAIMS.md").read_text(encoding="utf-8")
    assert written == as_markdown(CLAIMS, list(EXPERIMENTS.values())), (
        "run: python -m minipeft.experiments claims"
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.text[:60])
def test_a_claim_points_into_its_lecture(claim):
    notebook = json.loads((folder() / f"{claim.lecture}.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    kind, number = claim.figure.split()
    mark = {"figure": rf"^\*Figure {number}, in words", "section": rf"^## {number}\. "}[kind]
    assert re.search(mark, text, re.MULTILINE)
    assert claim.text and claim.source and "|" not in claim.text + claim.source


def test_every_claim_is_another():
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS) > 20


# -- verdicts -------------------------------------------------------------------------------------

SURE, LEVEL = [5.0, 5.5, 4.5, 5.0, 5.0], [4.0, 4.5, 3.5, 4.0, 4.0]


def test_held_is_more_than_two_errors_over_five_pairs():
    found = compared(SURE, LEVEL, " %")
    assert (found.value, found.verdict) == ("5 against 4 %: +1 ± 0, 5 seeds", HELD)
    assert (found.interval, found.seeds) == ((1, 1), 5)
    assert compared(LEVEL, SURE).verdict == ABSENT
    assert compared(SURE[:4], LEVEL[:4]).verdict == ABSENT  # too few
    wild = [9.0, 1.0, 9.0, 1.0, 9.0]
    assert compared(wild, LEVEL).verdict == ABSENT
    assert "+1.8 ± 2" in compared(wild, LEVEL).value


def test_a_margin_moves_the_verdict_and_not_the_value():
    assert compared(LEVEL, SURE, margin=2.0).verdict == HELD
    assert compared(LEVEL, SURE, margin=0.5).verdict == ABSENT
    assert compared(LEVEL, SURE, margin=2.0).value == compared(LEVEL, SURE).value


def test_a_margin_that_is_just_met_does_not_hold():
    even = [1.0] * 5
    assert compared(even, [2.0] * 5, margin=1.0).verdict == ABSENT  # level, and no more
    assert compared(even, [2.0] * 5, margin=1.01).verdict == HELD


def test_means_and_errors_of_unlike_seeds():
    a, b = [10.0, 20.0, 60.0, 30.0, 30.0], [9.0, 18.0, 54.0, 29.0, 30.0]  # apart 1, 2, 6, 1, 0
    found = compared(a, b, " points", "so it is")
    error = np.sqrt((1 + 0 + 16 + 1 + 4) / 4 / 5)
    assert found.value == f"30 against 28 points: +2 ± {error:.2g}, 5 seeds"
    assert found.verdict == ABSENT and found.why == "so it is"


def test_concordance_counts_pairs_and_no_ties():
    assert concordance([1, 2, 3], [10, 20, 30]) == 1 and concordance([1, 2, 3], [3, 2, 1]) == -1
    assert concordance([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert concordance([[5, 5], [5, 5]], [[1, 2], [3, 4]]) == 0
    assert concordance([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 3)


def test_a_verdict_is_one_of_three_and_says_why():
    with pytest.raises(ValueError, match="a verdict is 'held'.* got 'maybe'"):
        Finding("1", "maybe")
    with pytest.raises(ValueError, match="needs a reason"):
        Finding("1", CANNOT)


def test_the_page_counts_groups_and_escapes():
    def claim(lecture, verdict, why=""):
        return Claim(f"of {lecture}", "a | b", "figure 1", lambda: Finding("|x|", verdict, why),
                     lecture)  # fmt: skip

    page = as_markdown([claim("12_b", HELD), claim("04_a", ABSENT, "so it is"),
                        claim("04_a", CANNOT, "no GPU")])  # fmt: skip
    assert "3 claims: 1 held, 1 opposite, 0 undecided, 0 control, 1 cannot be shown." in page
    assert "| 04_a | 2 | 0 | 1 | 0 | 0 | 1 |\n| 12_b | 1 | 1 | 0 | 0 | 0 | 0 |" in page
    assert page.index("## [04_a](04_a.ipynb)") < page.index("## [12_b]")
    assert r"| of 04_a | a \| b | figure 1 | \|x\| |  | **opposite**: so it is |" in page
    bars = {len(re.findall(r"(?<!\\)\|", x)) for x in page.splitlines() if x.startswith("|")}
    assert bars == {7, 8}


def decided(a, b, margin=0.0, control=False):
    found = compared(a, b, margin=margin)
    return Claim("c", "s", "figure 1", lambda: found, "04_a", control).decision(found)


def test_five_decisions_by_the_interval():
    wild = [9.0, 1.0, 9.0, 1.0, 9.0]
    assert decided(SURE, LEVEL) == HELD and decided(LEVEL, SURE) == OPPOSITE
    assert decided(wild, LEVEL) == decided(LEVEL, wild) == UNDECIDED
    assert decided(SURE, SURE) == UNDECIDED  # level
    assert decided(SURE[:4], LEVEL[:4]) == UNDECIDED  # too few
    assert decided(LEVEL, SURE, control=True) == decided(wild, LEVEL, control=True) == CONTROL
    assert decided(SURE, LEVEL, control=True) == HELD  # a control that does not fail is seen
    assert Finding("1", CANNOT, "no GPU", (1, 2), 5).decided == CANNOT
    assert Finding("1", ABSENT).decided == OPPOSITE and Finding("1", HELD).decided == HELD


def test_two_errors_are_not_enough_for_five_seeds():
    """Differences with a mean of 2.4 errors: less than the 2.78 of t with 4 degrees."""
    d = np.array([-2, -1, 0, 1, 2]) + 2.4 * np.sqrt(2.5 / 5)
    found = compared(d.tolist(), [0.0] * 5)
    assert found.verdict == HELD and found.decided == UNDECIDED
    more = compared((d + 0.4 * np.sqrt(2.5 / 5)).tolist(), [0.0] * 5)
    assert more.decided == HELD


def test_as_good_as_is_an_equivalence():
    noise = np.array([-0.2, 0.1, 0.0, 0.1, 0.0])  # its interval is ± 0.15
    zero = [0.0] * 5
    assert decided(noise - 1.8, zero, margin=2.0) == HELD == decided(noise + 1, zero, margin=2.0)
    assert decided(noise - 1.9, zero, margin=2.0) == UNDECIDED
    assert decided(noise - 2.2, zero, margin=2.0) == OPPOSITE


def test_the_page_says_what_an_undecided_claim_excludes():
    found = compared([9.0, 1.0, 9.0, 1.0, 9.0], LEVEL, why="so it is")
    low, high = found.interval
    page = as_markdown([Claim("c", "s", "figure 1", lambda: found, "04_a")])
    told = f"excludes less than {low:+.2g} and more than {high:+.2g}; so it is"
    assert f"| 5 | **undecided**: {told} |" in page and low < 0 < high
    sure = compared(SURE, LEVEL)
    page = as_markdown([Claim("c", "s", "figure 1", lambda: sure, "04_a", control=True)])
    assert "| 5 | **held**: meant to fail |" in page


def test_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "folder", lambda: tmp_path)
    path = claims.write([CLAIMS[0]])
    assert path == tmp_path / "CLAIMS.md" and CLAIMS[0].text in path.read_text(encoding="utf-8")


def test_the_command_has_the_other_names_still():
    done = subprocess.run([sys.executable, "-m", "minipeft.experiments", "claim"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "invalid choice: 'claim'" in done.stderr


# -- verdicts follow the results ------------------------------------------------------------------


def nothing(value):
    """Zeros in the place of numbers."""
    if isinstance(value, list):
        return [nothing(v) for v in value]
    if isinstance(value, dict):
        return {k: nothing(v) for k, v in value.items()}
    return value if value is None else 0 * value


COUNTED = ("counted", "one machine's clock")


def test_a_base_that_learns_nothing_shows_nothing(monkeypatch):
    where = Results.where
    monkeypatch.setattr(Results, "where", lambda *a, **k: nothing(where(*a, **k)))
    # those that are counted, are no differences, or allow a margin
    other = ("as good as", "10 000 times", "latency", "W - B A", "With alpha", "25 %", "25.19M",
             "0.1M", "ten times fewer", "4.127", "less than a tenth", " trains ",
             "adds 1.3M")  # fmt: skip
    left = [c for c in CLAIMS if not any(word in c.text for word in other)]
    found = [(c.text, c.measure()) for c in left]
    found = [(t, f) for t, f in found if not f.margin and not f.why.startswith(COUNTED)]
    held = [text for text, finding in found if finding.verdict == HELD]
    assert len(found) > 15 and not held


def test_the_scaling_of_adam_and_of_gradient_descent_differ():
    for rslora, steady in ((False, False), (True, True)):
        verdicts = [lora_claims._scaling(o, rslora, steady).verdict for o in ("sgd", "adamw")]
        assert verdicts == [HELD, ABSENT]


class Made:
    """Results that were made up: outcome of a setting."""

    def __init__(self, outcome):
        self.outcome = outcome

    def where(self, key, **settings):
        return [self.outcome(key, settings, seed) for seed in range(5)]

    def mean(self, key, **settings):
        return float(np.mean(self.where(key, **settings)))


def verdicts(monkeypatch, part, outcome, *words):
    """Of a part's claims that have one of the words in them, as these results would have them."""
    monkeypatch.setattr(part, "results", lambda name: Made(outcome))
    return [c.measure().verdict for c in part.CLAIMS if any(w in c.text for w in words)]


def test_who_forgets_less_ends_with_the_lower_loss(monkeypatch):
    rise = {"full": 1.0, "bitfit": 2.0, "lora": 0.5, "top-2": 0.2}

    def outcome(key, s, seed):
        return [1.0, 1.0 + rise[s["method"]] / s["slower"]]

    found = verdicts(monkeypatch, subset_claims, outcome, "BitFit forgets less")
    assert found == [ABSENT, ABSENT]
    assert verdicts(monkeypatch, subset_claims, outcome, "LoRA forgets less") == [HELD, HELD]
    assert verdicts(monkeypatch, subset_claims, outcome, "A third of", "The farther") == [HELD] * 2


def test_probes_are_read_at_their_depth(monkeypatch):
    def outcome(key, s, seed):
        if key == "last":
            return [50, 52, 60, 65, 72, 71, 70] if s["base"] == "tiny-gpt" else [50] * 7
        return {"top-4": 61, "top-2": 72}.get(s["method"], 0)

    words = ("Frozen blocks hold", "Pretraining put", "let go", "Top-4 does", "Top-2 does")
    found = verdicts(monkeypatch, subset_claims, outcome, *words)
    assert found == [HELD, HELD, HELD, HELD, ABSENT]


def test_costs_are_compared_the_right_way_round(monkeypatch):
    kept = {"full": 56e6, "bitfit": 39e6} | {f"top-{k}": (8 + 8 * k) * 1e6 for k in range(1, 7)}
    count = {"full": 900_000, "top-2": 220_000, "top-1": 110_000, "bitfit": 6_000}

    def outcome(key, s, seed):
        m = s["method"]
        return {"kept": kept[m], "trainable": count.get(m), "step": 20, "cached": 8}[key]

    words = ("With stop gradient", "What freezing saves", "Who trains few", "run once")
    assert verdicts(monkeypatch, subset_claims, outcome, *words) == [HELD, ABSENT, ABSENT, HELD]


def test_the_family_is_compared_seed_by_seed(monkeypatch):
    score = {("lora", 8): 60, ("dora", 8): 60, ("dora", 4): 59, ("pissa", 8): 90, ("vera", 256): 50}

    def outcome(key, s, seed):
        if key == "ranks":
            return [[2 * i + j + seed % 2 for j in range(4)] for i in range(6)]
        member = s["method"], s["r"]
        early = 3 - (member == ("pissa", 8))
        return {"accuracy": score.get(member, 0) + seed, "trainable": 9, "early": early}[key]

    def found(*words):
        return verdicts(monkeypatch, lora_family_claims, outcome, *words)

    assert found("DoRA is ahead") == found("VeRA is as good") == [ABSENT] * 2
    assert found("half the rank", "PiSSA ends", "learns faster") == [HELD] * 6
    assert found("seeds agree", "Upper blocks", "Values and outputs") == [HELD] * 6


def test_seeds_that_agree_and_seeds_that_do_not():
    same = np.tile(np.arange(24).reshape(6, 4), (3, 1, 1))
    assert lora_family_claims.agreeing(same) == [1, 1, 1]
    against = np.stack([same[0], same[0], -same[0]])
    assert lora_family_claims.agreeing(against) == [0, 0, -1]


def test_starts_over_codes_go_by_their_error(monkeypatch):
    def outcome(key, s, seed):
        better = (s["method"] == "loftq") == (s["code"] == "nf2")
        return {"error": 0.4 - 0.1 * better, "accuracy": 70 + better}[key]

    found = verdicts(monkeypatch, lora_family_claims, outcome, "LoftQ's start", "LoftQ ends")
    assert found == [ABSENT, HELD, ABSENT, ABSENT, HELD]


def test_vera_is_counted():
    claim = next(c for c in lora_family_claims.CLAIMS if "ten times" in c.text)
    assert claim.measure().value == "786,432 against 61,440: 12.8 times"
