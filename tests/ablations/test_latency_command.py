"""Latency of a runs folder's variants, from their records alone."""

import json
from dataclasses import replace

import pytest
from commands import TINY

from ablations.latency import main
from ablations.record import RunRecord, read_runs, run_folder, write_record


@pytest.fixture(scope="module")
def config():
    """The config of a tiny run, as its record keeps it."""
    from hydra import initialize_config_dir

    from ablations.config import as_plain
    from ablations.sweep.compose import config_folder
    from ablations.sweep.grid import Grid

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        grid = Grid.of_hydra()
        (point,) = grid.points([*TINY, "data=glyphs"])
        return as_plain(grid.compose(point)[0])


def write(runs, variant, config, seed=0):
    digest = f"{len(variant):016x}"
    record = RunRecord(
        variant=variant,
        seed=seed,
        digest=digest,
        status="running",
        config={**config, "seed": seed},
    )
    write_record(run_folder(runs, variant, digest, seed), record)


def measure(*arguments):
    return main([*map(str, arguments), "--device", "cpu", "--repeats", "3", "--size", "32"])


def test_every_variant_is_measured_once_and_told_with_device_and_threads(config, tmp_path, capsys):
    deeper = json.loads(json.dumps(config))
    deeper["backbone"]["stages"]["c6"]["depth"] = 3
    for seed in (0, 1):
        write(tmp_path, "small", config, seed)
    write(tmp_path, "deeper", deeper)
    assert measure(tmp_path, "--batches", "2") == 0
    assert sorted(path.name for path in tmp_path.glob("*/*.json")) == ["latency.json"] * 2
    runs = read_runs(tmp_path)
    assert [run.latency["batch_1"]["num_repeats"] for run in runs] == [3, 3, 3]
    for run in runs:
        assert 0 < run.latency["batch_1"]["p50"] <= run.latency["batch_1"]["p95"]
        at_2 = run.latency["batch_2"]
        assert at_2["images_per_second"] == pytest.approx(2 / at_2["p50"])
        assert run.latency["env"]["num_threads"] >= 1
        assert "cores" in run.latency["env"]["device"]
        assert run.latency["env"]["input_size"] == [3, 32, 32]
    assert "P95" in capsys.readouterr().out


def test_more_variants_than_fit_are_measured_in_groups_with_the_first(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr("ablations.latency.MAX_AT_ONCE", 2)
    measured = []

    def measured_latency(networks, *arguments, **keywords):
        measured.append(sorted(networks))
        return real(networks, *arguments, **keywords)

    from ablations.latency import measure_latency as real

    monkeypatch.setattr("ablations.latency.measure_latency", measured_latency)
    for variant in ("a", "bb", "ccc"):
        write(tmp_path, variant, config)
    assert measure(tmp_path, "--batches", "1") == 0
    assert [[path.split("/")[-2].split("-")[0] for path in group] for group in measured] == [
        ["a", "bb"],
        ["a", "ccc"],
    ]
    assert len(list(tmp_path.glob("*/latency.json"))) == 3


def test_a_run_that_cannot_be_built_is_told_and_left_out(config, tmp_path, caplog):
    write(tmp_path, "good", config)
    write(tmp_path, "broken", {"protocol": {}})
    assert measure(tmp_path, "--batches", "1") == 0
    assert "its backbone cannot be built" in caplog.text
    assert len(list(tmp_path.glob("*/latency.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no runs to measure"),
        (["--batches", "0"], "time at least one batch"),
        (["--repeats", "0"], "time at least one batch"),
    ],
)
def test_nothing_to_measure_ends_with_2_and_the_reason(
    config, tmp_path, capsys, arguments, message
):
    if arguments:
        write(tmp_path, "good", config)
    assert main([str(tmp_path), "--device", "cpu", "--repeats", "2", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_latency_that_cannot_be_read_is_named_and_the_run_stands_without_it(config, tmp_path):
    write(tmp_path, "good", config)
    (run,) = read_runs(tmp_path)
    path = run.folder.parent / "latency.json"
    path.write_text("[")
    (found,) = read_runs(tmp_path, faults := [])
    assert str(path) in faults[0]
    assert found == replace(run, latency={})
