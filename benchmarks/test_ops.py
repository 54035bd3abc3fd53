"""The cases of the CPU suite under pytest-benchmark, ours alone: `pytest benchmarks --benchmark-only`.

For tracking one machine over time (`--benchmark-autosave`, `--benchmark-compare`); the comparison with peers and with
the machine's limit is `mclnf-fast bench`.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import cases, correctness, work

CASES = [case for case in cases.load_suite("cpu").cases if not case.variants]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_ours(case: cases.Case, benchmark: Any) -> None:
    """Times our contender of a case, after its check."""
    if (reason := work.missing(case.op)) is not None:
        pytest.skip(reason)
    problem = work.make(case)
    ours = problem.ours()[0]
    verdict = correctness.judge(ours, problem.truth(), problem.verify())
    assert verdict.reason is None, verdict.reason
    benchmark.extra_info.update(case=case.id, points=problem.points, flops=problem.flops, moved=problem.moved)
    benchmark.pedantic(ours.run, rounds=5, warmup_rounds=1)
