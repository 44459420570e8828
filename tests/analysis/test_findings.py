"""The paragraph under a table says what its numbers say, and no more."""

import pandas as pd
import pytest
from fabricated_runs import make_truth, note_table, write_run

from analysis.pages.findings import findings
from analysis.runs import Table, collect


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    runs = tmp_path_factory.mktemp("runs")
    truth = make_truth()
    for name in ("plain", "wide", "deep"):
        write_run(runs, name, truth)
    note_table(runs, ["plain", "wide", "deep"], "plain")
    (found,) = collect(runs)
    return found


def differences(*rows) -> pd.DataFrame:
    columns = ["variant", "metric", "difference", "low", "high", "mark"]
    return pd.DataFrame(rows, columns=columns)


def test_real_differences_are_told_with_their_interval_and_scales(table):
    told = findings(
        table,
        differences(
            ("wide", "AP", 0.031, 0.012, 0.05, "*"),
            ("wide", "AP_small", 0.05, 0.02, 0.08, "*"),
            ("wide", "AP_large", 0.01, -0.02, 0.04, "~"),
            ("deep", "AP", -0.02, -0.03, -0.01, "*"),
        ),
    )
    assert "wide stands above it: +3.1 [+1.2, +5.0] *, also on small objects alone." in told
    assert "deep stands below it: -2.0 [-3.0, -1.0] *." in told
    assert "told apart" not in told


def test_what_is_below_the_noise_is_not_called_equal(table):
    rows = [(name, "AP", 0.01, -0.02, 0.04, "~") for name in ("wide", "deep")]
    told = findings(table, differences(*rows))
    assert told.endswith(
        "wide and deep are not told apart from it by these runs in AP over all objects, which does "
        "not show that they are equal."
    )


def test_a_difference_on_one_scale_alone_is_told(table):
    told = findings(
        table,
        differences(
            ("wide", "AP", -0.03, -0.08, 0.02, "~"),
            ("wide", "AP_large", -0.1, -0.15, -0.05, "*"),
        ),
    )
    assert "On large objects alone wide stands below it: -10.0 [-15.0, -5.0] *." in told


def test_the_baselines_own_figures_are_those_of_its_record(table):
    (run,) = table.baseline.runs
    told = findings(table, differences())
    assert told.startswith(f"plain reaches an AP of {100 * run.record.metrics['AP']:.1f} (")
    for scale in ("small", "medium", "large"):
        assert f"{100 * run.record.metrics[f'AP_{scale}']:.1f} on {scale} objects" in told


def test_differences_without_intervals_are_not_judged(table):
    nan = float("nan")
    told = findings(table, differences(("wide", "AP", 0.01, nan, nan, "")))
    assert "wide" not in told
