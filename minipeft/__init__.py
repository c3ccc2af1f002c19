"""minipeft: parameter-efficient fine-tuning to read and to learn from.

The public names below are imported when they are first used, so `import minipeft` needs
NumPy alone and takes no time.
"""

import sys
from importlib import import_module
from typing import Any, NoReturn

__version__ = "0.1.0"

PUBLIC = {  # name -> the module it lives in
    "Tensor": "minipeft.engine",
    "no_grad": "minipeft.engine",
    "grad_check": "minipeft.engine",
    "load_model": "minipeft.storage.checkpoint",
    "attach": "minipeft.contract",
    "load_adapter": "minipeft.methods",
    "METHODS": "minipeft.methods",
    "Full": "minipeft.methods.full",
    "TopK": "minipeft.methods.topk",
    "BitFit": "minipeft.methods.bitfit",
    "LoRA": "minipeft.methods.lora",
    "fit": "minipeft.training.loop",
    "evaluate": "minipeft.training.evaluation",
    "generate": "minipeft.generation.sampling",
    "doctor": "minipeft.course.diagnosis",
}
MOVED = {  # modules of before 0.2 -> where what was in them is now
    "batches": "training.batches", "beam": "generation.beams", "blas": "engine.blas",
    "checkpoint": "storage.checkpoint", "compare": "course.compare", "doctor": "course.diagnosis",
    "fetch": "storage.fetch", "files": "storage.files", "finite": "nn.finite",
    "generate": "generation.sampling and generation.scoring", "hidden": "training.hidden",
    "inspection": "cli.inspection", "lectures": "course.notebooks", "masking": "corpus.masking",
    "metrics": "generation.metrics", "optim": "training.optim", "paged": "storage.paged",
    "pretrain": "corpus.pretraining", "progress": "display.progress", "resume": "training.resume",
    "step": "training.step", "text": "storage.text", "viz": "course.viz",
    "train": "training.loop, training.evaluation and training.malloc",
    "engine.codes": "methods.codes", "engine.projection": "methods.projection",
    "engine.cost": "ledger.cost", "engine.meter": "ledger.meter",
    "methods.base": "contract.method", "methods.attached": "contract.attached",
    "methods.targets": "contract.targets", "methods.merge": "contract.merging",
    "methods.report": "contract.report", "methods.adapter_file": "contract.file",
    "tasks.world": "world.town", "tasks.claims": "world.statements",
    "tasks.stream": "corpus.stream", "tasks.episodes": "corpus.episodes",
    "tasks.relations": "corpus.relations",
    **{f"tasks.{name}": f"world.{name}" for name in (
        "lexicon", "attributes", "grammar", "sentences", "descriptions", "narrators", "records",
        "reviews",
    )},
    **{f"experiments.{old}": f"course.experiments.{new}" for old, new in {
        "activations": "activations and minipeft.contract.watching", "claims": "claims",
        "baselines": "bases.counted_words", "digit_net": "subspaces.digit_net",
        "ladder": "bases.ladder",
        "learning_rates": "rates.runs", "lora": "lora.runs", "lora_claims": "lora.claims",
        "lora_family": "lora_family.runs", "lora_family_claims": "lora_family.claims",
        "probes": "bases.probes", "pruning": "pruning.runs", "pruning_claims": "pruning.claims",
        "quantization": "quantization.runs", "quantization_claims": "quantization.claims",
        "runner": "runner", "subset_claims": "subsets.claims", "subsets": "subsets.runs",
        "subspace_claims": "subspaces.claims", "subspaces": "subspaces.runs",
        "world": "world.runs", "world_context": "world.context", "world_states": "world.states",
        "world_training": "world.training",
    }.items()},
}  # fmt: skip

__all__ = [*PUBLIC, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)
    if name in MOVED:
        raise AttributeError(_moved(name))
    from minipeft.checks import nearest

    near = nearest(name, PUBLIC, close=True)
    hint = f"did you mean {near!r}?" if near else f"it has {', '.join(PUBLIC)}"
    raise AttributeError(f"module 'minipeft' has no attribute {name!r}; {hint}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _moved(name: str) -> str:
    return f"minipeft.{name} has moved: import from minipeft.{MOVED[name]}"


class _OldNames:
    """The last place where Python looks for a module: it says where an old one is now."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None | NoReturn:
        old = name.removeprefix("minipeft.")
        if name != old and old in MOVED:
            raise ModuleNotFoundError(_moved(old))
        return None


if _OldNames not in sys.meta_path:
    sys.meta_path.append(_OldNames)
