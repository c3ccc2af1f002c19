"""The doctor: what it finds, when it advises, and what it calls a problem."""

import json
import os
import subprocess
import sys

import pytest

from minipeft import doctor as look
from minipeft.course.diagnosis import AVX512, THREADS, as_text, blas, blas_advice, cpu_flags


def test_quiet_prints_nothing_and_returns_the_facts(capsys):
    found = look(quiet=True)
    assert capsys.readouterr().out == ""
    assert found["packages"]["numpy"] and found["cores"] >= 1
    json.dumps(found, allow_nan=False)
    look()
    assert capsys.readouterr().out.strip() == as_text(found).strip()


def test_the_text_fits_a_terminal():
    names = [f"model-of-some-size-{i}" for i in range(12)]
    found = look(quiet=True) | {"platform": "", "cpu": "", "data": "", "gpu": "", "models": names}
    text = as_text(found)
    assert all(name in text for name in names)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("core", ["Haswell", "Zen"])
def test_older_kernels_on_an_avx512_processor_are_advised_against(core):
    advice = blas_advice(core, AVX512 | {"sse2"})
    assert advice.startswith("export OPENBLAS_CORETYPE=SkylakeX\n") and core in advice


@pytest.mark.parametrize(
    ("core", "flags"), [("SkylakeX", AVX512), ("Haswell", AVX512 - {"avx512vl"}), (None, AVX512)]
)
def test_no_advice_where_nothing_is_wrong(core, flags):
    assert blas_advice(core, flags) == ""


def test_kernels_and_threads_are_those_that_run():
    if blas()["core"] is None or "avx2" not in cpu_flags():
        pytest.skip("posix: NumPy has no OpenBLAS of its own, or the processor is not x86")
    code = "from minipeft.course.diagnosis import blas; b = blas(); print(b['core'], b['threads'])"
    for core, threads in (("Haswell", "1"), ("Nehalem", "2")):
        settings = {"OPENBLAS_CORETYPE": core, **dict.fromkeys(THREADS, threads)}
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings},
                              capture_output=True, text=True, check=True)  # fmt: skip
        name, count = done.stdout.split()
        assert name == core and int(count) <= int(threads)


def test_missing_files_are_problems(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    found = look(quiet=True)
    assert found["models"] == [] and len(found["problems"]) == 2
    assert "minipeft pretrain tiny-gpt" in as_text(found) and "No problem" not in as_text(found)
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path / "gone"))
    assert "gone" in look(quiet=True)["problems"][0]


def test_a_missing_package_is_a_problem(monkeypatch):
    real = look.__globals__["_version"]
    monkeypatch.setitem(look.__globals__, "_version", lambda n: None if n == "numpy" else real(n))
    assert any("numpy is not installed" in p for p in look(quiet=True)["problems"])


def test_memory_cores_and_malloc_are_those_of_this_process(monkeypatch):
    lines = {"/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable:    4194304 kB"]}
    monkeypatch.setitem(look.__globals__, "_lines", lambda path: lines.get(path, []))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9}, raising=False)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("MINIPEFT_MALLOC", "0")
    found = look(quiet=True)
    assert found["free_memory"] == 2**32 and "free memory      4.0 GiB" in as_text(found)
    assert found["cores"] == 3 and found["malloc"] == "left alone (MINIPEFT_MALLOC=0)"
    lines.clear()
    assert look(quiet=True)["free_memory"] is None
