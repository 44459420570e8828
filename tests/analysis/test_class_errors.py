"""Tables of classifications: errors, their paired intervals, and what the report says of them."""

import numpy as np
import pytest
from scipy.stats import norm

import analysis
from ablations.evaluation.classes import class_errors
from ablations.record import RunRecord, run_folder, write_record
from ablations.storage import write_json_gz
from analysis.report import write_report

NUM_IMAGES, NUM_CLASSES = 400, 8


def predictions(error: float, seed: int) -> list[dict]:
    """Guesses that are wrong by chance; what is hard is so for every network."""
    difficulty = np.random.default_rng(99).uniform(size=NUM_IMAGES)
    luck = np.random.default_rng(seed).uniform(size=NUM_IMAGES)
    wrong = 0.5 * difficulty + 0.5 * luck > 1 - error
    found = []
    for index in range(NUM_IMAGES):
        label = index % NUM_CLASSES
        order = [label, *(k for k in range(NUM_CLASSES) if k != label)]
        if wrong[index]:
            order[0], order[1 + index % 6] = order[1 + index % 6], label
        found.append({"image_id": index + 1, "label": label, "top": order[:5]})
    return found


def add_run(runs, variant, error, seed=0, digest="0" * 15):
    found = predictions(error, seed)
    digest += str(len(variant) % 10)
    folder = run_folder(runs, variant, digest, seed)
    write_json_gz(folder / "classes.json.gz", found)
    record = RunRecord(
        variant=variant,
        seed=seed,
        digest=digest,
        status="done",
        config={"task": "classify", "protocol": {"name": "tiny"}},
        data={
            "val_fingerprint": "f",
            "num_val": NUM_IMAGES,
            "categories": [str(k) for k in range(NUM_CLASSES)],
        },
        metrics=class_errors(found, NUM_CLASSES),
        cost={"params": 1e6, "macs": 1e9},
        timing={"train_images_per_second": 10.0},
    )
    write_record(folder, record)
    return found


def is_wrong(found):
    return np.array([each["label"] != each["top"][0] for each in found])


def test_the_interval_of_two_runs_is_that_of_paired_differences(tmp_path):
    ours = is_wrong(add_run(tmp_path, "baseline", 0.5))
    theirs = is_wrong(add_run(tmp_path, "better", 0.4, digest="1" * 15))
    table = analysis.load(tmp_path).table()
    differences = table.differences(num_resamples=4000).set_index("metric")
    row = differences.loc["top1_error"]
    each = theirs.astype(float) - ours
    error = each.std(ddof=1) / np.sqrt(NUM_IMAGES)
    assert row.difference == pytest.approx(each.mean())
    assert row.standard_error == pytest.approx(error, rel=0.05)
    half = norm.ppf(0.975) * error
    assert (row.low, row.high) == pytest.approx((each.mean() - half, each.mean() + half), rel=0.1)
    assert row.mark == "*"
    assert set(differences.index) == {"top1_error", "top5_error"}


def test_equal_networks_do_not_differ_and_seeds_count_as_noise(tmp_path):
    for seed in (0, 1, 2):
        add_run(tmp_path, "baseline", 0.45, seed)
        add_run(tmp_path, "same", 0.45, 10 + seed, digest="1" * 15)
    differences = analysis.load(tmp_path).table().differences(num_resamples=500)
    assert set(differences["mark"]) == {"~"}
    summary = analysis.load(tmp_path).table().summary().set_index("variant")
    assert summary.loc["baseline", "num_seeds"] == 3
    assert summary.loc["baseline", "top1_error_spread"] > 0


def test_the_report_shows_errors_with_intervals_beside_published_ones(tmp_path):
    add_run(tmp_path / "runs", "detnet_resnet50", 0.5)
    add_run(tmp_path / "runs", "detnet59", 0.4, digest="1" * 15)
    runs, out = tmp_path / "runs", tmp_path / "out"
    (section,) = write_report(runs, out, baseline="detnet_resnet50", num_resamples=200)
    (main,) = section.main_tabulars
    assert main.header[:4] == ("variant", "top-1 error", "Δtop-1 error", "top-5 error")
    cells = dict(zip(main.header, main.rows[0], strict=True))
    assert cells["variant"] == "detnet59"
    assert cells["Δtop-1 error"].startswith("-")
    assert "[" in cells["Δtop-1 error"]
    assert "lower is better" in section.legend
    assert section.findings.startswith("detnet_resnet50 has a top-1 error of ")
    assert "detnet59 stands below it: -" in section.findings
    published = section.tabulars["published"]
    assert [row[2] for row in published.rows] == ["23.5", "24.1"]
    assert "top-1 error" in (out / "report.html").read_text()


def test_a_run_whose_predictions_are_gone_has_no_interval_and_the_report_says_so(tmp_path):
    add_run(tmp_path, "baseline", 0.5)
    add_run(tmp_path, "other", 0.4, digest="1" * 15)
    next(tmp_path.glob("other-*/seed0/classes.json.gz")).unlink()
    table = analysis.load(tmp_path).table()
    differences = table.differences(num_resamples=200).set_index("metric")
    assert differences.loc["top1_error", "mark"] == ""
    assert differences.loc["top1_error", "difference"] < 0
