"""A sweep's points before anything runs: what is planned, how it is named, what is done once."""

import pytest
from commands import TINY
from hydra import initialize_config_dir

from ablations.plan import main as plan
from ablations.record import read_tables
from ablations.sweep.compose import config_folder
from ablations.sweep.grid import Grid, SweepError, in_order, note_tables
from ablations.sweep.order import training_work
from ablations.sweep.sweeper import each_once

NARROW = [word for word in TINY if not word.startswith("backbone=")]
NARROW.append("backbone.width_multiplier=0.125")


@pytest.fixture
def grid():
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield Grid.of_hydra()


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
        "ablation": 5,
        "table5_projection": 2,
    }
    assert tables["table5_projection"]["baseline"] == "detnet59_noproj"


def planned_rows(capsys, *words: str) -> list[list[str]]:
    """The plan's lines without header and count, as words."""
    assert plan([*words]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]


RATES = ["protocol.batch_size=2,4", "protocol.learning_rate=0.1,0.2"]
PAIRED = "hydra.sweeper.paired=[protocol.batch_size,protocol.learning_rate]"
UNSET = [word for word in TINY if not word.startswith("protocol.batch_size")]


def test_paired_lists_go_side_by_side_and_seeds_multiply_them(capsys, tmp_path):
    words = [*UNSET, *RATES, "seed=range(0,2)", f"job.runs={tmp_path}"]
    rows = planned_rows(capsys, *words, PAIRED)
    told = [(row[0].partition("batch_size=")[2], row[1]) for row in rows]
    low, high = "2,protocol.learning_rate=0.1", "4,protocol.learning_rate=0.2"
    assert told == [(low, "0"), (low, "1"), (high, "0"), (high, "1")]
    assert len(planned_rows(capsys, *words)) == 8


def test_several_groups_may_be_paired(capsys, tmp_path):
    groups = "[[protocol.batch_size,protocol.learning_rate],[protocol.gamma,protocol.momentum]]"
    more = ["protocol.gamma=0.1,0.2", "protocol.momentum=0.8,0.9", f"hydra.sweeper.paired={groups}"]
    assert len(planned_rows(capsys, *UNSET, *RATES, *more, f"job.runs={tmp_path}")) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["protocol.batch_size=2,4,8", RATES[1]], "protocol.batch_size has 3"),
        (["protocol.batch_size=2", RATES[1]], "protocol.batch_size has no list"),
    ],
)
def test_pairs_of_unequal_lists_are_refused(capsys, tmp_path, words, message):
    assert plan([*UNSET, *words, PAIRED, f"job.runs={tmp_path}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("order", "steps"),
    [("asked", [8, 2, 4]), ("cheapest", [2, 4, 8]), ("dearest", [8, 4, 2])],
)
def test_runs_are_ordered_by_cost_on_request(capsys, tmp_path, order, steps):
    words = [*TINY, "protocol.num_steps=8,2,4", f"job.runs={tmp_path}"]
    rows = planned_rows(capsys, *words, f"hydra.sweeper.order={order}")
    assert [int(row[0].rpartition("=")[2]) for row in rows] == steps


def test_larger_backbones_and_images_are_dearer(grid, tmp_path):
    def work(*words: str) -> float:
        return training_work(grid.plan([*NARROW, f"job.runs={tmp_path}", *words])[0].run)

    assert work("backbone=detnet59") > work("backbone=detnet17")
    sized = [f"protocol.{side}" for side in ("short_side=[128]", "long_side=128")]
    assert work(*sized) == pytest.approx(4 * work())


def test_longer_classifications_are_dearer(grid, tmp_path):
    words = ["task=classify", "protocol=classify_smoke", "backbone=detnet_atto"]
    planned = grid.plan([*words, "protocol.num_steps=60,20,40", f"job.runs={tmp_path}"])
    ordered = in_order(planned, "cheapest")
    assert [each.run.config.protocol.num_steps for each in ordered] == [20, 40, 60]


def test_the_plan_counts_a_run_once_however_often_it_is_asked_for(capsys, tmp_path):
    assert plan([*TINY, f"job.runs={tmp_path}", "seed=0,0"]) == 0
    assert "1 runs: 1 missing" in capsys.readouterr().out
    assert plan([*NARROW, f"job.runs={tmp_path}", "+table=projection,ablation"]) == 0
    printed = capsys.readouterr().out
    assert "detnet59_noproj seed 0 is asked for twice: done once" in printed
    assert "5 runs: 5 missing" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table.baseline=nowhere"], "without +table=NAME"),
        (["+table={name:x,variants:{}}"], "a table is a file"),
        (["~seed"], "~seed: cannot be deleted"),
        (["seed=1,a"], "seed: Value 'a' of type 'str' could not be converted to Integer\n"),
        (["--config-dir", "/nowhere", "+table=mine"], "--config-dir /nowhere: no such folder"),
    ],
)
def test_what_hydra_crashes_on_the_plan_refuses(capsys, words, message):
    assert plan(words) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_order_is_refused(capsys):
    assert plan([*TINY, "hydra.sweeper.order=fastest"]) == 2
    assert "hydra.sweeper.order=fastest: give asked, cheapest, dearest" in capsys.readouterr().err


def test_a_seed_listed_twice_is_run_once(grid, tmp_path, caplog):
    caplog.set_level("INFO")
    planned = grid.plan([*TINY, f"job.runs={tmp_path}", "seed=0,0,1"])
    assert [each.run.config.seed for each in each_once(planned)] == [0, 1]
    assert "is asked for twice" in caplog.text


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
        "table5_projection,protocol.batch_size=2",
        "table5_projection,protocol.batch_size=4",
    ]
    for name, table in tables.items():
        assert table["baseline"] == f"detnet59_noproj{name.removeprefix('table5_projection')}"
        assert len(table["variants"]) == 2


def test_all_wrong_jobs_are_told_at_once(grid):
    with pytest.raises(SweepError, match="2 of 3 jobs are wrong") as refusal:
        grid.plan([*TINY, "seed=-1,0,-2"])
    assert str(refusal.value).count("seed=-") >= 2


def own_table(folder, rows: str) -> list[str]:
    """Arguments for `plan` with a table of these rows in a folder of one's own."""
    (folder / "table").mkdir()
    (folder / "table" / "mine.yaml").write_text(f"name: mine\nvariants:\n{rows}")
    words = [word for word in TINY if not word.startswith("backbone=")]
    return ["-m", "--config-dir", str(folder), *words, f"job.runs={folder / 'runs'}", "+table=mine"]


def test_a_table_of_ones_own_folder_is_found_and_the_plan_takes_trains_flags(tmp_path, capsys):
    words = own_table(tmp_path, "  a: [backbone=detnet_atto]\n  b: [backbone=detnet17]\n")
    assert plan(words) == 0
    assert "2 runs: 2 missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "code"), [("backbone=detnet_resnet50", 2), ("backbone=detnet_resnet50b", 0)]
)
def test_a_table_of_two_stride_conventions_is_refused(tmp_path, capsys, other, code):
    assert plan(own_table(tmp_path, f"  a: [backbone=detnet59b]\n  b: [{other}]\n")) == code
    assert ("a on the 3x3, b on the 1x1" in capsys.readouterr().err) == (code == 2)


def test_a_table_may_ablate_the_stride_convention_itself(tmp_path, capsys):
    row = "[backbone=detnet_atto, backbone.stride_on={}]"
    rows = f"  a: {row.format('1x1')}\n  b: {row.format('3x3')}\n"
    assert plan(own_table(tmp_path, rows)) == 0


def test_a_sweep_may_be_of_another_task(grid, tmp_path):
    words = ["task=classify", "protocol=classify_smoke", "backbone=detnet_atto,detnet17"]
    planned = grid.plan([*words, "data.image_size=32", f"job.runs={tmp_path}"])
    assert [each.run.config.task for each in planned] == ["classify", "classify"]
    assert [each.run.variant for each in planned] == ["detnet_atto", "detnet17"]
