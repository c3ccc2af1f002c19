"""Every method keeps the contract; so do two throwaway methods that are unlike the shipped ones."""

import dataclasses

import pytest

from tests.methods.contract import CASES, CHECKS


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, name, tmp_path):
    check(CASES[name], tmp_path)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", [pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True)
def test_contract_on_a_device(name, backend, tmp_path):
    for check in CHECKS:
        check(dataclasses.replace(CASES[name], xp=backend), tmp_path)
