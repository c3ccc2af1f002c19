"""The claims of the course as runs over seeds; their results are committed in data/results.

python -m minipeft.experiments lora_matrices --fast
"""

from minipeft.experiments import (
    ladder,
    learning_rates,
    lora,
    lora_claims,
    lora_family,
    lora_family_claims,
    probes,
    pruning,
    pruning_claims,
    quantization,
    quantization_claims,
    subset_claims,
    subsets,
    subspace_claims,
    subspaces,
    world,
)
from minipeft.experiments.claims import Claim
from minipeft.experiments.runner import Difference, Experiment, Results, difference, results

PARTS = (
    probes, world, ladder, learning_rates, lora, lora_family, subsets, quantization, subspaces,
    pruning,
)  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {e.name: e for part in PARTS for e in part.EXPERIMENTS}
CLAIMED = (
    lora_claims, lora_family_claims, subset_claims, quantization_claims, subspace_claims,
    pruning_claims,
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = tuple(claim for part in CLAIMED for claim in part.CLAIMS)

__all__ = ["CLAIMS", "EXPERIMENTS", "Difference", "Experiment", "Results", "difference", "results"]
