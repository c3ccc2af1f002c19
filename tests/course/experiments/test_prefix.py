"""The measures behind the lecture on prefixes, and that its rates are those of the sweeps."""

import numpy as np
import pytest

from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.prefix import claims, runs
from minipeft.course.experiments.runner import base
from minipeft.course.solutions import prefix as solutions
from minipeft.engine import Tensor, fused


def test_the_gate_is_attention_over_keys_of_both_kinds():
    rng = np.random.default_rng(0)
    q, K, V, P_k, P_v = (rng.normal(size=s) for s in ((4,), (5, 4), (5, 4), (2, 4), (2, 4)))
    y, lam = solutions.gated(q, K, V, P_k, P_v)
    k, v = (Tensor(np.concatenate(pair)[None]) for pair in ((P_k, K), (P_v, V)))
    wanted = fused.attention(Tensor(q[None, None]), k, v, heads=1, causal=False).data[0, 0]
    assert abs(y - wanted).max() < 1e-12 and 0 < lam < 1
    assert solutions.gated(q, K, V, -100 * q[None], P_v[:1])[1] < 1e-9  # a key that nobody wants


def test_a_start_has_a_row_for_each_token():
    P = solutions.start_from(base(), runs.WORDS)
    assert P.shape == (len(base().tokenizer.encode(runs.WORDS)), 2 * 6 * 96)


def test_rates_are_those_that_the_sweep_chose():
    found = results("prefix_few_rates")
    for name, rates in runs.FEW_TRIED.items():
        score = {lr: found.mean("bleu_validation", method=name, lr=lr) for lr in rates}
        best, mine = max(score.values()), score[runs.FEW_RATES[name]]
        spread = np.std(found.where("bleu_validation", method=name, lr=runs.FEW_RATES[name]))
        assert mine >= best - max(2.0, spread), (name, score)


@pytest.mark.parametrize("name", ["prefix_start", "prefix_special", "prefix_few"])
def test_a_fast_run_works(name):
    experiment = EXPERIMENTS[name]
    outcome = experiment.run(experiment.settings(True)[0])
    assert all(v is None or np.isfinite(v) for v in outcome.values())
    assert outcome == experiment.run(experiment.settings(True)[0])


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_a_start_is_usable_at_as_many_rates_as_end_well():
    for name, (rates, seeds) in {n: (r, 5) for n, (_, r) in runs.STARTS.items()}.items():
        counts = claims.usable(name)
        assert len(counts) == seeds and all(0 <= n <= len(rates) for n in counts)
