import json

import pytest
from fabricated_runs import make_truth, note_table, write_run

from ablations.record import read_runs, write_table
from analysis.runs import ReportError, collect, first_line, outside, protocol_name

TRUTH = make_truth(6)


def test_a_noted_table_keeps_its_order_and_its_baseline(runs):
    note_table(runs, ["detnet_resnet50", "noproj", "detnet59"], "detnet59")
    (table,) = collect(runs)
    assert table.name == "projection"
    assert [variant.name for variant in table.variants] == ["detnet_resnet50", "noproj", "detnet59"]
    assert table.baseline.name == "detnet59"
    assert [len(variant.runs) for variant in table.variants] == [1, 2, 2]


def test_what_failed_and_what_is_missing_is_named_with_the_errors_own_line(runs):
    note_table(runs, ["detnet59", "detnet_resnet50", "exploding", "detnet110"], "detnet59")
    (table,) = collect(runs)
    assert [str(absent) for absent in table.absent] == [
        "detnet_resnet50 seed 1: missing (no run in this folder)",
        "exploding seed 0: failed (ValueError: the loss is not finite)",
        "exploding seed 1: missing (no run in this folder)",
        "detnet110: missing (no run in this folder)",
    ]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("disk full\nmore", "disk full"),
        ("", ""),
        ('Traceback (most recent call last):\n  File "a"\nKeyError: 3', "KeyError: 3"),
        (
            'Traceback (most recent call last):\n  File "a"\nKeyError: 3\n\nDuring handling:\n\n'
            'Traceback (most recent call last):\n  File "b"\nOSError: gone\nwhere: here',
            "OSError: gone",
        ),
    ],
)
def test_the_first_line_of_an_error_is_the_one_that_says_what_happened(error, line):
    assert first_line(error) == line


def test_an_unfinished_run_is_told_as_such(runs):
    write_run(runs, "slow", TRUTH, status="running")
    (table,) = collect(runs)
    assert any(str(a).startswith("slow seed 0: running (not finished") for a in table.absent)


def test_without_a_noted_table_runs_over_the_same_data_and_protocol_stand_together(runs):
    write_run(runs, "noproj", TRUTH, seed=0, fingerprint="0ther", digest="a" * 10)
    write_run(runs, "detnet59", TRUTH, seed=0, protocol="mini", digest="b" * 10)
    found = {
        (protocol_names(table), fingerprints(table)): [v.name for v in table.variants]
        for table in collect(runs)
    }
    assert found == {
        (("smoke",), ("feedbeef",)): ["detnet59", "detnet_resnet50", "noproj"],
        (("smoke",), ("0ther",)): ["noproj"],
        (("mini",), ("feedbeef",)): ["detnet59"],
    }


def protocol_names(table):
    return tuple(sorted({protocol_name(run) for run in table.runs}))


def fingerprints(table):
    return tuple(sorted({run.record.data["val_fingerprint"] for run in table.runs}))


def test_the_first_variant_is_the_baseline_where_none_is_said(runs):
    (table,) = collect(runs)
    assert (table.baseline.name, table.baseline_origin) == ("detnet59", "the first variant")
    (table,) = collect(runs, baseline="noproj")
    assert (table.baseline.name, table.baseline_origin) == ("noproj", "as asked for")


def test_two_variants_of_one_name_are_told_apart_by_their_digest(runs):
    write_run(runs, "noproj", TRUTH, seed=0, digest="c" * 10)
    (table,) = collect(runs)
    names = [variant.name for variant in table.variants if variant.name.startswith("noproj")]
    assert len(names) == 2
    assert "noproj (cccccccccc)" in names


def test_a_run_is_found_by_its_digest_under_whatever_name_it_was_first_run(runs):
    digest = next(r.record.digest for r in read_runs(runs) if r.record.variant == "detnet59")
    write_table(runs, "dilation", [{"variant": "paper", "digest": digest}], "paper")
    (table,) = collect(runs)
    assert [variant.name for variant in table.variants] == ["paper"]


def test_the_runs_that_no_table_tells_of_are_listed(runs):
    note_table(runs, ["detnet59", "exploding"], "detnet59")
    left = outside(collect(runs), read_runs(runs))
    assert {run.record.variant for run in left} == {"noproj", "detnet_resnet50"}


def test_an_unknown_baseline_is_refused_with_those_there_are(runs):
    with pytest.raises(ReportError, match=r"--baseline nosuch.*detnet59, detnet_resnet50, noproj"):
        collect(runs, baseline="nosuch")


def test_a_table_over_different_validation_data_is_refused(runs):
    write_run(runs, "elsewhere", TRUTH, fingerprint="0ther")
    note_table(runs, ["detnet59", "elsewhere"], "detnet59")
    with pytest.raises(ReportError, match=r"projection.*0ther: elsewhere"):
        collect(runs)


def test_an_empty_folder_and_one_where_nothing_is_done_are_refused(tmp_path):
    with pytest.raises(ReportError, match="no runs"):
        collect(tmp_path)
    write_run(tmp_path, "exploding", TRUTH, status="failed", error="disk full")
    with pytest.raises(
        ReportError, match=r"no run is done: exploding seed 0: failed \(disk full\)"
    ):
        collect(tmp_path)


def set_results_version(runs, variant, version):
    for path in runs.glob(f"{variant}-*/seed*/record.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "results_version": version}))


def test_a_table_of_one_results_version_has_nothing_to_tell(runs):
    (table,) = collect(runs)
    assert table.mixed_versions is None


def test_a_table_that_mixes_results_versions_names_the_runs_and_the_switch(runs):
    for variant in ("detnet59", "detnet_resnet50"):
        set_results_version(runs, variant, 3)
    set_results_version(runs, "noproj", 2)
    (table,) = collect(runs)
    assert "version 2: noproj seed 0, noproj seed 1; version 3: detnet59" in table.mixed_versions
    assert "job.retrain_outdated=true" in table.mixed_versions
