"""What crashes showed: each once as a test of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crashes._cases import CASES
from tests.crashes._runs import Report, run_case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_case_comes_to_the_same_wherever_it_is_cut_off(case: Any) -> None:
    report = Report()
    run_case(case, report)
    assert report.problems == []
    assert report.crashes > 5
