"""The claims of the course as runs over seeds; their results are committed in data/results.

python -m minipeft.experiments lora_matrices --fast
"""

from minipeft.experiments import learning_rates, lora, lora_claims, probes
from minipeft.experiments.claims import Claim
from minipeft.experiments.runner import Difference, Experiment, Results, difference, results

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for part in (probes, learning_rates, lora)
    for experiment in part.EXPERIMENTS
}

CLAIMS: tuple[Claim, ...] = tuple(claim for part in (lora_claims,) for claim in part.CLAIMS)

__all__ = ["CLAIMS", "EXPERIMENTS", "Difference", "Experiment", "Results", "difference", "results"]
