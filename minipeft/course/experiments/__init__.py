"""The claims of the course as runs over seeds; their results are committed in data/results.

python -m minipeft.experiments lora_matrices --fast
"""

from importlib import import_module

from minipeft.course.experiments.claims import Claim
from minipeft.course.experiments.runner import Experiment, Results, results
from minipeft.course.experiments.statistics import Difference, difference

RUNS = (  # modules with EXPERIMENTS
    "bases.probes", "world.runs", "bases.ladder", "rates.runs", "lora.runs", "lora_family.runs",
    "subsets.runs", "quantization.runs", "subspaces.runs", "pruning.runs", "adapters.runs",
    "ia3.runs", "prefix.runs", "prompt.runs", "prompt.ensembling", "ptuning.runs",
    "ptuning.starts", "calibration.runs", "icl.runs", "unified.runs",
    "editing.runs", "steering.runs", "vision.runs",
)  # fmt: skip
CLAIMED = (  # topics with CLAIMS
    "lora", "lora_family", "subsets", "quantization", "subspaces", "pruning", "ia3", "adapters",
    "prefix", "prompt", "ptuning", "calibration", "icl", "unified",
    "editing", "steering", "vision",
)  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {
    e.name: e for runs in RUNS for e in import_module(f"{__name__}.{runs}").EXPERIMENTS
}
CLAIMS: tuple[Claim, ...] = tuple(
    claim for topic in CLAIMED for claim in import_module(f"{__name__}.{topic}.claims").CLAIMS
)

__all__ = ["CLAIMS", "EXPERIMENTS", "Difference", "Experiment", "Results", "difference", "results"]
