"""Points of a sweep are composed as Hydra composes them, once a variant."""

import pytest
from commands import TINY
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablations.record import read_runs, write_record
from ablations.run import record_of
from ablations.sweep.compose import as_run_config, config_folder
from ablations.sweep.grid import Grid


@pytest.fixture
def grid():
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield Grid.of_hydra()


@pytest.mark.parametrize(
    "words",
    [
        [],
        TINY,
        ["backbone=detnet59", "detector=retinanet", "protocol=paper"],
        ["protocol.num_steps=9", "protocol=mini", "protocol.num_steps=7"],
        ["backbone=detnet59", "~backbone.stages.c6", "backbone.stages.c5.depth=1"],
        ["+backbone.stages={c7: {depth: 2, width: 256, dilation: 2}}", "backbone=detnet59"],
        ["+table=small", "table.baseline=detnet17_noproj", "seed=3", "variant=mine"],
        ["backbone=timm", "backbone.name=resnet18"],
        ["data.seed=${seed}", "seed=4"],
        ["protocol={name: own, num_steps: 3}", "protocol.batch_size=2"],
    ],
)
def test_what_is_composed_from_shared_choices_is_what_hydra_composes(grid, words):
    for again in range(2):  # the second one from what the first one left
        seeded = [*words, f"job.num_workers={again}"]
        composed = grid.composer.compose(seeded)
        expected = grid.loader.load_sweep_config(grid.master, seeded)
        choices = OmegaConf.to_container(expected.hydra.runtime.choices)
        assert as_run_config(composed.values) == as_run_config(expected)
        assert composed.choices == choices


@pytest.mark.parametrize(
    "word",
    ["protocol.num_step=3", "sed=3", "backbone=detnet60", "~backbone.stages.c9",
     "+protocol.num_steps=3", "+backbone.stages.c6.depth=1", "table.baseline=x"],
)  # fmt: skip
def test_what_hydra_refuses_is_refused_alike(grid, word):
    def refusal(compose):
        with pytest.raises((HydraException, OmegaConfBaseException, AssertionError)) as refused:
            compose()
        return type(refused.value), str(refused.value)

    grid.composer.compose(TINY)
    assert refusal(lambda: grid.composer.compose([*TINY, word])) == refusal(
        lambda: grid.loader.load_sweep_config(grid.master, [*TINY, word])
    )


def test_seeds_share_what_is_composed_and_opened(grid, tmp_path, monkeypatch):
    composed = []
    compose = grid.composer.compose
    monkeypatch.setattr(
        grid.composer, "compose", lambda words: composed.append(words) or compose(words)
    )
    words = [*TINY, f"job.runs={tmp_path}", "protocol.learning_rate=0.1,0.2", "seed=range(0,5)"]
    runs = [each.run for each in grid.plan(words)]
    assert [run.config.seed for run in runs] == 2 * [0, 1, 2, 3, 4]
    assert [run.task.config.seed for run in runs] == 2 * [0, 1, 2, 3, 4]
    assert len({run.folder for run in runs}) == 10
    assert sum("protocol.learning_rate=0.2" in words for words in composed) == 1


def test_a_value_made_of_the_seed_is_composed_for_each_seed(grid, tmp_path):
    words = [*TINY, f"job.runs={tmp_path}", "data.seed=${seed}", "seed=0,1"]
    runs = [each.run for each in grid.plan(words)]
    assert [run.config.data.seed for run in runs] == [0, 1]
    assert runs[0].digest != runs[1].digest


def test_the_network_of_a_finished_run_is_not_built_again_to_plan_it(grid, tmp_path, monkeypatch):
    words = [*TINY, f"job.runs={tmp_path}", "seed=0,1"]
    (first, _) = (each.run for each in grid.plan(words))
    done = record_of(first, "done", metrics={"AP": 0.5}, cost={"params": 1, "macs": 2})
    write_record(first.folder, done)
    checked = []
    monkeypatch.setattr(
        type(first.task), "check_model", lambda task: checked.append(task.config.seed)
    )
    assert [each.run.status for each in grid.plan(words)] == ["done", "missing"]
    assert checked == [1]
    assert len(read_runs(tmp_path)) == 1
