"""The benchmarks' choices, which need no clock."""

import pytest

from minipeft.course.diagnosis import AVX512
from tests.benchmarks.bench_step import SAME, TORCH, TUNED, WIDE, contestants, wider


@pytest.mark.parametrize(
    ("core", "flags", "wanted"),
    [
        ("Haswell", {"avx2", "fma"}, False),  # SkylakeX code would die there
        ("Zen", AVX512 - {"avx512vl"}, False),
        ("Zen", {"avx2", *AVX512}, True),
        ("Haswell", set(AVX512), True),
        ("SkylakeX", set(AVX512), False),  # it runs these kernels anyway
    ],
)
def test_wide_kernels_take_part_where_the_doctor_advises_them(core, flags, wanted, tmp_path):
    variables = wider(core, flags)
    assert variables == ({"OPENBLAS_CORETYPE": "SkylakeX"} if wanted else {})
    field = contestants("ours", "torch", tmp_path, variables)
    assert (WIDE in field) is wanted and {SAME, TORCH, TUNED} <= field.keys()
    assert all(
        "OPENBLAS_CORETYPE" not in asked for name, (_, _, _, asked) in field.items() if name != WIDE
    )
