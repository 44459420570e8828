"""Effective receptive fields of a runs folder's trained backbones."""

import json
import shutil

import pytest
from commands import train

from ablations.receptive_field import main
from ablations.record import read_runs
from analysis.figures.receptive_field import receptive_fields
from analysis.figures.style import styles
from analysis.pages.tables import receptive_field_tabular
from analysis.runs import collect


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    ended = train(runs, "data=glyphs")
    assert ended.returncode == 0, ended.stderr
    return runs


@pytest.fixture
def runs(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def measure(runs):
    return main([str(runs), "--device", "cpu", "--size", "96"])


def test_every_stage_sees_something_and_at_most_what_it_could(runs, capsys):
    assert measure(runs) == 0
    (run,) = read_runs(runs)
    found = run.receptive_field["stages"]
    assert {"c2", "c3", "c4", "c5", "c6"} <= set(found)
    for stage in ("c2", "c3"):  # what later ones could see is larger than the image
        assert found[stage]["theoretical"] == run.record.cost["stages"][stage]["receptive_field"]
        assert 0 < found[stage]["effective"] <= found[stage]["theoretical"]
    assert "c2" in capsys.readouterr().out


def test_the_report_shows_effective_beside_theoretical(runs):
    (table,) = collect(runs)
    assert receptive_field_tabular(table) is None
    assert receptive_fields(table, styles([table])) is None
    assert measure(runs) == 0
    (table,) = collect(runs)
    tabular = receptive_field_tabular(table)
    found = table.runs[0].receptive_field["stages"]["c3"]
    cell = tabular.rows[0][tabular.header.index("c3")]
    assert cell == f"{found['effective']:.0f} of {found['theoretical']}"
    (axes,) = receptive_fields(table, styles([table])).axes
    solid = next(line for line in axes.lines if line.get_linestyle() == "-")
    place = [label.get_text() for label in axes.get_xticklabels()].index("c3")
    assert dict(zip(solid.get_xdata(), solid.get_ydata(), strict=True))[place] == found["effective"]


def test_runs_without_weights_or_images_are_told_and_left_out(runs, caplog, capsys):
    (run,) = read_runs(runs)
    twin = runs / run.folder.parent.name / "seed1"
    shutil.copytree(run.folder, twin)
    record = json.loads((twin / "record.json").read_text())
    record["config"]["seed"] = record["seed"] = 1
    (twin / "record.json").write_text(json.dumps(record))
    (run.folder / "checkpoint.pt").unlink()
    assert measure(runs) == 0
    assert "random weights say nothing" in caplog.text
    assert read_runs(runs)[0].receptive_field["seed"] == 1
    shutil.rmtree(run.validation_folder / "images")
    assert measure(runs) == 2
    assert "no run can be measured" in capsys.readouterr().err
