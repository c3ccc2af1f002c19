"""Methods for the tests alone, to prove that the contract holds beyond the shipped ones."""

from tests.contract.throwaway.functions import (
    AdapterDrop,
    Houlsby,
    Offsets,
    Parallel,
    Pfeiffer,
    Produced,
    Steering,
)
from tests.contract.throwaway.parameters import FacT, Masked, Subspace

THROWAWAY = {
    m.name: m
    for m in (
        Subspace, Masked, FacT, Houlsby, Pfeiffer, Parallel, AdapterDrop, Steering, Produced,
    )
}  # fmt: skip

__all__ = [
    "THROWAWAY", "AdapterDrop", "FacT", "Houlsby", "Masked", "Offsets", "Parallel",
    "Pfeiffer", "Produced", "Steering", "Subspace",
]  # fmt: skip
