import numpy as np
import pytest
from benchmark_scripts import imported
from fabricated_runs import make_truth, note_table, write_run

from analysis.bootstrap import Sample
from analysis.seeds import SeedSpread
from analysis.shelf import Shelf


@pytest.fixture(scope="module")
def noise():
    with imported("seed_noise") as module:
        yield module


def test_the_share_is_the_variance_of_seeds_over_that_of_images(noise):
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.5, (2000, 3))  # by variant and seed
    baseline, *others = (SeedSpread(each.var(ddof=1), 0.0, 2) for each in scores)
    images = rng.normal(size=5000)
    samples = [Sample(0.0, images, 100, (baseline, other)) for other in others]
    # of a difference of two means of three
    assert noise.seed_share(samples) == pytest.approx(0.5**2 * 2 / 3, rel=0.06)


def test_every_table_with_truth_has_a_row_of_metrics_and_of_gains(
    noise, tmp_path, monkeypatch, capsys
):
    for name, skill in (("plain", 0.5), ("wide", 0.7)):
        for seed in range(2):
            write_run(tmp_path / "small", name, make_truth(), skill=skill, seed=seed)
    note_table(tmp_path / "small", ["plain", "wide"], "plain", "width")
    monkeypatch.setattr(noise, "Shelf", lambda: Shelf(tmp_path))
    monkeypatch.setattr(noise, "NUM_RESAMPLES", 100)
    noise.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if "small/width" in line]
    assert [row.split(" | ")[4] for row in rows] == ["metrics", "gains"]
    assert all(row.split(" | ")[2:4] == ["2", "2"] for row in rows)
