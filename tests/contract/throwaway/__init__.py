"""Methods for the tests alone, to prove that the contract holds beyond the shipped ones."""

from tests.contract.throwaway.functions import Offsets, Produced, Steering
from tests.contract.throwaway.parameters import FacT, Masked, Subspace

THROWAWAY = {m.name: m for m in (Subspace, Masked, FacT, Steering, Produced)}

__all__ = ["THROWAWAY", "FacT", "Masked", "Offsets", "Produced", "Steering", "Subspace"]
