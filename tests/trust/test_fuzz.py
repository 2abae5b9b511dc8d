"""The fuzzer: random calls, half of them wrong; see `fuzz` for what is drawn and how it is judged."""

import collections
import random

import fuzz
from conftest import LEVELS
from hypothesis import given
from hypothesis import strategies as st

CASES = {"quick": 1_000, "short": 20_000, "nightly": 1_000_000}


def test_only_documented_exceptions_and_otherwise_the_right_answer(scale, tally):
    counts, faults = collections.Counter(), set()
    for seed in range(CASES[scale]):
        case = fuzz.draw(random.Random(seed), LEVELS)
        try:
            counts["errors raised"] += fuzz.judge(case)
        except Exception as error:
            error.add_note(f"seed {seed}: {case}")
            raise
        counts["cases"] += 1
        counts["faults injected"] += bool(case.faults)
        faults.update(case.faults)
    tally(counts)
    assert counts["faults injected"] == counts["errors raised"] > 0.4 * CASES[scale]
    assert faults == set(fuzz.FAULTS)


@given(st.randoms(use_true_random=False))
def test_hypothesis_finds_no_case_that_fails(r):
    """Fewer cases, but a failing one shrinks to its core."""
    fuzz.judge(fuzz.draw(r, LEVELS))
