"""tools/budgets.py counts what it says it counts."""

import runpy
from pathlib import Path

import pytest

BUDGETS = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "budgets.py"))


@pytest.mark.parametrize(
    "line",
    [
        "vpslld $0x13,%zmm0,%zmm1",
        "vpsllq $0x30,%zmm10,%zmm10",
        "vpslld $0x17,%ymm3,%ymm3",
        "vpsllq $0x34,%ymm3,%ymm3",
        "pslld  $0x17,%xmm4",
        "psllq  $0x34,%xmm4",
        "shl\tv0.4s, v1.4s, #23",
        "shl\tv30.2d, v30.2d, #52",
    ],
)
def test_power_of_two_of_an_exponential_is_counted(line):
    assert BUDGETS["copies"](f"    1a2b:\t{line}\n    1a30:\tret\n    1a31:\t{line}\n") == 2


@pytest.mark.parametrize(
    "line",
    ["vpslld $0x10,%zmm0,%zmm1", "vpsrld $0x13,%zmm0,%zmm1", "vpsrlq $0x34,%ymm3,%ymm3", "shl\tv0.4s, v1.4s, #16",
     "shl $0x13,%eax", "vpslld $0x130,%zmm0,%zmm1"],
)  # fmt: skip
def test_other_shifts_are_not(line):
    assert BUDGETS["copies"](f"    1a2b:\t{line}\n") == 0


def test_what_is_over_its_budget_is_named():
    copies, most = BUDGETS["MOST_COPIES"], BUDGETS["MOST_BYTES"]
    six = {f"module{i}": most // 6 for i in range(6)}
    assert list(BUDGETS["over_budget"](dict.fromkeys(six, copies), six)) == []
    (line,) = BUDGETS["over_budget"]({"avx2_f32": copies + 1}, {"avx2_f32": most // 6})
    assert line.startswith(f"avx2_f32 has {copies + 1} copies")
    (line,) = BUDGETS["over_budget"]({"avx2_f32": copies}, {"avx2_f32": most // 6 + 1})
    assert line.startswith("1 modules have")
