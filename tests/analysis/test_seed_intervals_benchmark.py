import numpy as np
import pytest
from benchmark_scripts import imported

from analysis.bootstrap import Sample, differences
from analysis.seeds import SeedSpread


@pytest.fixture(scope="module")
def intervals():
    with imported("seed_intervals") as module:
        yield module


@pytest.mark.parametrize("num_seeds", [2, 5])
@pytest.mark.parametrize("mean_square", [0.2, 0.5, 3.0])
def test_our_rule_is_that_of_the_bootstrap(intervals, num_seeds, mean_square):
    images, own = 0.63, 0.37
    spread = SeedSpread(mean_square, own, num_seeds - 1)
    resampled = np.sqrt(images / 2) * np.array([-1.0, 1.0])
    sample = Sample(0.0, resampled, 10**7, (spread, spread._replace(image_part=own - 1e-12)))
    (found,) = differences([sample])
    seeds = intervals.Seeds(np.array([mean_square]), num_seeds, 2 * (num_seeds - 1), 0.0)
    expected = intervals.ours(images, seeds)
    assert found.high == pytest.approx(expected[0], rel=1e-5)


def test_known_variances_cover_what_is_asked_and_too_few_degrees_do_not(intervals):
    rules = intervals.judge(2, 2, 40_000)
    covered, told = rules["known"]
    assert covered == pytest.approx(0.95, abs=0.01)
    # of a normal number around 2.5 / sqrt(0.63)
    assert told == pytest.approx(0.883, abs=0.01)
    assert rules["normal"][0] < rules["one_t"][0] < rules["the_mean"][0] < rules["ours"][0]
    assert rules["ours"][0] < covered + 0.005
