"""A sweep's points before anything runs: what is planned, how it is named, what is done once."""

import pytest
from commands import TINY
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from ablations.plan import main as plan
from ablations.record import read_tables
from ablations.sweep.compose import config_folder
from ablations.sweep.grid import Grid, SweepError, note_tables
from ablations.sweep.sweeper import each_once

NARROW = [word for word in TINY if not word.startswith("backbone=")]
NARROW.append("backbone.width_multiplier=0.125")


@pytest.fixture
def grid():
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        master = hydra.compose_config("config", overrides=[], run_mode=RunMode.MULTIRUN)
        yield Grid(hydra.config_loader, master)


def test_two_tables_run_the_variants_of_both_and_a_shared_run_once(grid, tmp_path):
    words = [*NARROW, f"job.runs={tmp_path}", "+table=projection,ablation"]
    planned = grid.plan(words)
    assert [each.point.table for each in planned] == 2 * ["projection"] + 5 * ["ablation"]
    once = each_once(planned)
    assert [each.run.variant for each in once] == [
        "detnet59", "detnet59_noproj", "detnet59_nodilation",
        "detnet_resnet50_dilated", "detnet_resnet50",
    ]  # fmt: skip
    note_tables(planned)
    tables = read_tables(tmp_path)
    assert {name: len(table["variants"]) for name, table in tables.items()} == {
        "projection": 2,
        "ablation": 5,
    }
    assert tables["projection"]["baseline"] == "detnet59_noproj"


def test_a_seed_listed_twice_is_run_once(grid, tmp_path, caplog):
    caplog.set_level("INFO")
    planned = grid.plan([*TINY, f"job.runs={tmp_path}", "seed=0,0,1"])
    assert [each.run.config.seed for each in each_once(planned)] == [0, 1]
    assert "is the same run" in caplog.text


def test_a_swept_value_that_is_the_default_names_the_variant_itself(grid, tmp_path):
    words = ["backbone.stages.c6.dilation=1,2", f"job.runs={tmp_path}"]
    names = [each.run.variant for each in grid.plan([*TINY, *words])]
    plain = grid.plan([*TINY, f"job.runs={tmp_path}"])[0].run
    assert names[1] == plain.variant
    assert names[0].startswith("detnet_atto,c6.dilation=1,")


def test_a_table_times_a_list_is_a_table_for_each_choice(grid, tmp_path):
    words = ["+table=projection", "protocol.batch_size=2,4", "seed=0,1", f"job.runs={tmp_path}"]
    narrow = [word for word in NARROW if not word.startswith("protocol.batch_size")]
    planned = grid.plan([*narrow, *words])
    assert len(planned) == 8
    note_tables(planned)
    tables = read_tables(tmp_path)
    assert sorted(tables) == [
        "projection,protocol.batch_size=2",
        "projection,protocol.batch_size=4",
    ]
    for name, table in tables.items():
        assert table["baseline"] == f"detnet59_noproj{name.removeprefix('projection')}"
        assert len(table["variants"]) == 2


def test_a_table_of_ones_own_folder_is_found_and_the_plan_takes_trains_flags(tmp_path, capsys):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "mine.yaml").write_text(
        "name: mine\nvariants:\n  a: [backbone=detnet_atto]\n  b: [backbone=detnet17]\n"
    )
    words = [word for word in TINY if not word.startswith("backbone=")]
    runs = f"job.runs={tmp_path / 'runs'}"
    assert plan(["-m", "--config-dir", str(tmp_path), *words, runs, "+table=mine"]) == 0
    assert "2 runs: 2 missing" in capsys.readouterr().out


def test_all_wrong_jobs_are_told_at_once(grid):
    with pytest.raises(SweepError, match="2 of 3 jobs are wrong") as refusal:
        grid.plan([*TINY, "seed=-1,0,-2"])
    assert str(refusal.value).count("seed=-") >= 2
