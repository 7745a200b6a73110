"""Pictures of random runs: their sums are those of the pools, and their lanes have no gaps."""

from __future__ import annotations

import pytest
from picture_kit import Pictures

from ._draw import draw_program
from ._programs import PROFILES
from ._runs import run_once

# Those leave generators to the collector, of which pytest makes errors.
PROFILES_HERE = [profile for profile in PROFILES if profile != "untidy"]


@pytest.mark.parametrize("profile", PROFILES_HERE)
def test_the_pictures_of_random_programs_add_up(profile: str) -> None:
    for seed in range(30):
        pictures = Pictures(every=1 + seed % 7)
        run_once(draw_program(seed, PROFILES[profile]), seed, pictures, blow=profile == "rare")
        assert pictures.pictures
        assert pictures.problems == [], f"seed {seed}"
