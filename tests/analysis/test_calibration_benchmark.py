import numpy as np
import pytest
from benchmark_scripts import imported


@pytest.fixture(scope="module")
def calibration():
    with imported("calibration") as module:
        yield module


def test_a_setting_has_a_row_for_each_number_of_seeds(calibration):
    setting = calibration.Setting(20, "small", 4)
    rows = calibration.run_setting(setting)
    assert [(row.num_variants, row.num_seeds) for row in rows] == [
        (variants, seeds) for variants in (2, 4) for seeds in (1, 2, 3, 5)
    ]
    assert np.isnan(rows[0].false_marks[0])  # runs of other seeds do differ
    assert all(0 <= share <= 100 for row in rows for share in (*row.coverage, *row.power))
    text = calibration.report(rows)
    assert all(f"| 20 | small | 4 | {count} | 4 |" in text for count in (1, 2, 3, 5))


def row_of(calibration, num_seeds=1, coverage=95.0, false_marks=5.0, power=50.0):
    setting = calibration.Setting(50, "none", 1000)
    return calibration.Row(
        setting, 2, num_seeds, (coverage,) * 4, (false_marks,) * 2, (power,) * 2, 1.0, 0.0
    )


def test_what_is_surely_outside_of_the_aims_is_named(calibration):
    assert calibration.misses([row_of(calibration)]) == []
    assert len(calibration.misses([row_of(calibration, coverage=91.0)])) == 4
    assert len(calibration.misses([row_of(calibration, coverage=99.0)])) == 4
    assert len(calibration.misses([row_of(calibration, false_marks=9.0)])) == 2
    falling = [row_of(calibration), row_of(calibration, num_seeds=2, power=40.0)]
    assert calibration.misses(falling)[0].endswith("power for metrics falls from 50 to 40 %")


def test_a_better_variant_scores_higher(calibration):
    rng = np.random.default_rng(0)
    outcomes = list(calibration.run_trial(rng, 200, noise=0.0, shift=1.0))
    assert [outcome.num_seeds for outcome in outcomes if outcome.num_variants == 4] == [1, 2, 3, 5]
    assert all(outcome.intervals["AP"][1] > 0 for outcome in outcomes)
    assert all(outcome.any_metric for outcome in outcomes)
