"""Every method keeps the contract; so do two throwaway methods that are unlike the shipped ones."""

import dataclasses

import pytest

from minipeft.contract import attach
from tests.methods import contract
from tests.methods.contract import CASES, CHECKS, CONFIGS, REFUSED

SHORT = [  # what is checked by default on other models than GPT; `-m full` checks the rest
    contract.starts_as_the_identity,
    contract.only_what_trains_gets_gradients,
    contract.training_leaves_the_base_alone,
    contract.the_count_is_the_docstring_s,
    contract.merged_weights_do_the_same,
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, name, tmp_path):
    check(CASES[name], tmp_path)


def refused(kind, name):
    return CASES[name].method.name in REFUSED.get(kind, {})


PAIRS = [(kind, name) for kind in CONFIGS for name in CASES if not refused(kind, name)]


@pytest.mark.parametrize(("kind", "name"), [pair for pair in PAIRS if pair[0] != "gpt"])
@pytest.mark.parametrize(
    "check",
    [pytest.param(c, marks=() if c in SHORT else pytest.mark.full) for c in CHECKS],
    ids=lambda check: check.__name__,
)
def test_contract_on_other_models(check, kind, name, tmp_path):
    check(contract.on(kind, name), tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k in CONFIGS for n in CASES if refused(k, n)]
)
def test_a_method_that_does_not_fit_says_why(kind, name):
    model = contract.on(kind, name).model()
    before = contract.snapshot(model)
    with pytest.raises(ValueError, match=REFUSED[kind][CASES[name].method.name]):
        attach(model, CASES[name].method)
    contract.assert_restored(model, before)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "backend", ["stand-in", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)
@pytest.mark.parametrize("checks", [SHORT, pytest.param(CHECKS, marks=pytest.mark.full)])
def test_contract_on_a_device(checks, name, backend, tmp_path):
    for check in checks:
        check(dataclasses.replace(CASES[name], xp=backend), tmp_path)
