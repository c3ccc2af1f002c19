"""The claims of the course as runs over seeds; their results are committed in data/results.

python -m minipeft.experiments lora_matrices --fast
"""

from minipeft.course.experiments.adapters import claims as adapter_claims
from minipeft.course.experiments.adapters import runs as adapters
from minipeft.course.experiments.bases import ladder, probes
from minipeft.course.experiments.calibration import claims as calibration_claims
from minipeft.course.experiments.calibration import runs as calibration
from minipeft.course.experiments.claims import Claim
from minipeft.course.experiments.ia3 import claims as ia3_claims
from minipeft.course.experiments.ia3 import runs as ia3
from minipeft.course.experiments.icl import claims as icl_claims
from minipeft.course.experiments.icl import runs as icl
from minipeft.course.experiments.lora import claims as lora_claims
from minipeft.course.experiments.lora import runs as lora
from minipeft.course.experiments.lora_family import (
    claims as lora_family_claims,
)
from minipeft.course.experiments.lora_family import (
    runs as lora_family,
)
from minipeft.course.experiments.prefix import claims as prefix_claims
from minipeft.course.experiments.prefix import runs as prefix
from minipeft.course.experiments.prompt import claims as prompt_claims
from minipeft.course.experiments.prompt import ensembling
from minipeft.course.experiments.prompt import runs as prompt
from minipeft.course.experiments.pruning import claims as pruning_claims
from minipeft.course.experiments.pruning import runs as pruning
from minipeft.course.experiments.ptuning import claims as ptuning_claims
from minipeft.course.experiments.ptuning import runs as ptuning
from minipeft.course.experiments.ptuning import starts as ptuning_starts
from minipeft.course.experiments.quantization import (
    claims as quantization_claims,
)
from minipeft.course.experiments.quantization import (
    runs as quantization,
)
from minipeft.course.experiments.rates import runs as learning_rates
from minipeft.course.experiments.runner import Experiment, Results, results
from minipeft.course.experiments.statistics import Difference, difference
from minipeft.course.experiments.subsets import claims as subset_claims
from minipeft.course.experiments.subsets import runs as subsets
from minipeft.course.experiments.subspaces import claims as subspace_claims
from minipeft.course.experiments.subspaces import runs as subspaces
from minipeft.course.experiments.world import runs as world

PARTS = (
    probes, world, ladder, learning_rates, lora, lora_family, subsets, quantization, subspaces,
    pruning, adapters, ia3, prefix, prompt, ensembling, ptuning, ptuning_starts,
    calibration, icl,
)  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {e.name: e for part in PARTS for e in part.EXPERIMENTS}
CLAIMED = (
    lora_claims, lora_family_claims, subset_claims, quantization_claims, subspace_claims,
    pruning_claims, ia3_claims, adapter_claims, prefix_claims, prompt_claims, ptuning_claims,
    calibration_claims, icl_claims,
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = tuple(claim for part in CLAIMED for claim in part.CLAIMS)

__all__ = ["CLAIMS", "EXPERIMENTS", "Difference", "Experiment", "Results", "difference", "results"]
