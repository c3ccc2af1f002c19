"""What this machine has: versions, BLAS, threads, memory, GPU, the shipped files; and advice."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

import minipeft
from minipeft.backend import to_device, xp_of
from minipeft.display.table import Table
from minipeft.engine.blas import THREADS
from minipeft.storage.checkpoint import shipped_models
from minipeft.storage.files import data_dir

NEEDED = ("numpy", "threadpoolctl", "tokenizers", "safetensors", "matplotlib", "sacrebleu",
          "rouge-score")  # fmt: skip
OPTIONAL = ("jupyterlab", "scikit-learn", "cupy-cuda12x", "cupy-cuda13x")
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}  # what SkylakeX code needs
AVX512_CORES = {"SkylakeX", "Cooperlake", "SapphireRapids"}
CORE_TYPE = {"OPENBLAS_CORETYPE": "SkylakeX"}
WIDTH = 73  # of the models' names


def doctor(quiet: bool = False) -> dict[str, Any]:
    """Look at the machine and print what matters here; returns the same as a dict.

    "problems" lists what must be mended, "advice" what would make things faster.
    """
    found: dict[str, Any] = {
        "minipeft": minipeft.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": cores(),
        "free_memory": free_memory(),
        "blas": blas(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "malloc": _malloc(),
        "gpu": _gpu(),
        "packages": {name: _version(name) for name in NEEDED + OPTIONAL},
    }
    found |= _data()
    advice = blas_advice(found["blas"]["core"], cpu_flags())
    found["advice"] = [advice] if advice else []
    found["problems"] += [
        f"{name} is not installed: pip install {name}"
        for name in NEEDED
        if found["packages"][name] is None
    ]
    if not quiet:
        print(as_text(found))
    return found


def as_text(found: dict[str, Any]) -> str:
    """What `doctor` found, line by line."""
    memory, library = found["free_memory"], found["blas"]
    installed = [f"{name} {version}" for name, version in found["packages"].items() if version]
    missing = [name for name in OPTIONAL if not found["packages"][name]]
    models = textwrap.wrap(", ".join(found["models"]) or "none", WIDTH, break_on_hyphens=False)
    rows = [
        ("minipeft", f"{found['minipeft']} on Python {found['python']}"),
        ("platform", found["platform"]),
        ("cpu", f"{found['cpu']}, {found['cores']} cores"),
        ("free memory", f"{memory / 2**30:.1f} GiB" if memory else "unknown"),
        ("BLAS", f"{library['name']}, kernels for {library['core'] or 'unknown'}, "
                 f"{library['threads'] or '?'} threads"),
        ("thread settings", " ".join(f"{k}={v}" for k, v in found["threads"].items()) or "none"),
        ("malloc", found["malloc"]),
        ("GPU", found["gpu"] or "none (CuPy and an NVIDIA GPU were not found)"),
        ("packages", ", ".join(installed[:3])),
        *[("", ", ".join(installed[i : i + 3])) for i in range(3, len(installed), 3)],
        ("not installed", ", ".join(missing) or "nothing"),
        ("data", found["data"] or "not found"),
        ("models", models[0]),
        *[("", more) for more in models[1:]],
    ]  # fmt: skip
    lines = [Table((), rows).text()]
    lines += [f"\nfaster: {text}" for text in found["advice"]]
    lines += [f"\nPROBLEM: {text}" for text in found["problems"]]
    return "\n".join(lines if found["problems"] else [*lines, "\nNo problem found."])


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The processor's instruction sets on Linux, an empty set elsewhere."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def free_memory() -> int | None:
    """Bytes that can be had without swapping, where the system tells."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return None


def blas() -> dict[str, Any]:
    """The BLAS behind NumPy; kernel type and threads are read from NumPy's own OpenBLAS."""
    config: Any = np.show_config(mode="dicts")
    info = config.get("Build Dependencies", {}).get("blas", {})
    name = f"{info.get('name', 'unknown')} {info.get('version', '')}".strip()
    found: dict[str, Any] = {"name": name, "core": None, "threads": None}
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for file in sorted(folder.glob("*openblas*")):
            found |= _openblas(file)
    return found


def _openblas(file: Path) -> dict[str, Any]:
    """Ask a loaded OpenBLAS; its functions' names depend on how it was built."""
    try:
        library = ctypes.CDLL(str(file))
    except OSError:
        return {}
    for prefix in ("scipy_", ""):
        for suffix in ("64_", ""):
            core = getattr(library, f"{prefix}openblas_get_corename{suffix}", None)
            threads = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
            if core is not None and threads is not None:
                core.restype, threads.restype = ctypes.c_char_p, ctypes.c_int
                return {"core": core().decode(), "threads": int(threads())}
    return {}


def blas_advice(core: str | None, flags: set[str]) -> str:
    """What to set where OpenBLAS took older kernels than the processor can run; else nothing."""
    if core is None or core in AVX512_CORES or not flags >= AVX512:
        return ""
    ((name, value),) = CORE_TYPE.items()
    return (
        f"export {name}={value}\n"
        f"        This processor has AVX-512, but OpenBLAS did not recognise it and runs {core}\n"
        "        kernels; matrix products are 1.5 to 1.7 times faster with this line. It must be\n"
        "        set before Python starts. `minipeft compare` sets it for its own workers."
    )


def _malloc() -> str:
    if platform.libc_ver()[0] != "glibc":
        return "left alone (tuned on glibc only)"
    if os.environ.get("MINIPEFT_MALLOC") == "0":
        return "left alone (MINIPEFT_MALLOC=0)"
    return "glibc: fit keeps big freed blocks (MINIPEFT_MALLOC=0 turns that off)"


def _gpu() -> str | None:
    try:
        xp = xp_of(to_device(np.zeros(1), "cuda"))
    except Exception:  # a broken driver must not stop the doctor
        return None
    name = xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    free, total = xp.cuda.runtime.memGetInfo()
    return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, CuPy {xp.__version__}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _data() -> dict[str, Any]:
    """The data folder, its models, and what is wrong with them."""
    try:
        folder = data_dir()
    except FileNotFoundError as error:
        return {"data": None, "models": [], "problems": [str(error)]}
    models = shipped_models()
    problems = [] if models else [f"no model in {folder / 'models'}: `minipeft pretrain tiny-gpt`"]
    if not (folder / "tokenizer.json").is_file():
        problems.append(f"{folder} has no tokenizer.json: `minipeft pretrain tokenizer`")
    return {"data": str(folder), "models": models, "problems": problems}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
