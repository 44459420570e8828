"""What a search asks for and tells, with runs that are written down instead of trained."""

import itertools
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from commands import TINY
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import detnet
from ablations.record import write_record
from ablations.run import Outcome, record_of
from ablations.storage import held
from ablations.study.record import read_study, study_folder
from ablations.study.storage import storage_of
from ablations.sweep.compose import config_folder, run_config
from ablations.sweep.grid import Grid, PlannedPoint
from ablations.sweep.search import MAX_INFEASIBLE, Search
from ablations.sweep.search_config import SAMPLERS, SearchConfig
from ablations.sweep.search_costs import costs_of, training_memory
from ablations.sweep.search_known import known_variants
from ablations.sweep.search_space import SearchError, search_space
from ablations.sweep.search_study import SearchStudy
from ablations.tasks.detection import build_body
from detnet.cost import cost

C5, C6, C7 = (f"backbone.stages.c{n}" for n in (5, 6, 7))
WIDTH = f"{C6}.width"
WIDTHS = f"{WIDTH}=64,128,256"
RATES = "protocol.learning_rate=tag(log,interval(0.001,0.1))"


@pytest.fixture
def grid():
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield Grid.of_hydra()


def write_run(point: PlannedPoint, ap: float, status: str = "done") -> Outcome:
    """Leave the record of a run that was never trained."""
    run = point.run
    done = record_of(run, "done", metrics={"AP": ap}, cost={"macs": cost(run.config.backbone).macs})
    if status == "done":
        write_record(run.folder, done)
    return Outcome(status=status, error=None if status == "done" else "why", **run.place)


class Searcher:
    """A search over a runs folder; `launched` are the points whose runs were asked for."""

    def __init__(self, grid: Grid, runs: Path, *words: str, **options: Any) -> None:
        self.grid, self.runs = grid, runs
        self.config = SearchConfig.of(options)
        overrides = [*TINY, f"job.runs={runs}", *words]
        parsed = OverridesParser.create().parse_overrides(overrides)
        self.space = search_space(parsed, self.config.only_if)
        self.config.check_space(self.space)
        self.launched: list[PlannedPoint] = []

    def run(self, launch: Callable[[PlannedPoint], Outcome] = lambda p: write_run(p, 0.5)):
        """Search with a launcher that writes runs down; returns the study it leaves."""

        def launched(point: PlannedPoint, number: int) -> Outcome:
            self.launched.append(point)
            return launch(point)

        folder = study_folder(self.runs, self.config.study)
        objectives = self.config.objectives or {"AP": "maximize"}
        with held(folder):
            study = SearchStudy.open(self.config, self.space, objectives)
            for values in known_variants(self.grid, self.space, self.config.known):
                study.enqueue_trial(values, skip_if_exists=True)
            self.search = Search(study, self.grid, launched, folder)
            self.search.run()
        return read_study(folder / "study.json")

    @property
    def asked(self) -> list[list[str]]:
        """The words by which the launched points differ."""
        shared = {*TINY, f"job.runs={self.runs}"}
        return [[w for w in p.point.overrides if w not in shared] for p in self.launched]


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_a_sampler_that_tries_every_point_tries_each_once_and_ends(grid, tmp_path, sampler):
    words = [f"{WIDTH}=64,128", "protocol.warmup_steps=range(1,3)"]
    options = {"sampler": sampler, "n_trials": 50, "storage": str(tmp_path / "study.journal")}
    searcher = Searcher(grid, tmp_path, *words, **options)
    searcher.run()
    every = itertools.product((64, 128), (1, 2))
    wanted = [[f"{C6}.width={w}", f"protocol.warmup_steps={s}"] for w, s in every]
    assert sorted(searcher.asked) == sorted(wanted)
    searcher.run()
    assert len(searcher.launched) == len(wanted)


def test_brute_force_tries_every_point_of_a_conditional_space(grid, tmp_path):
    stage = "{depth:1,width:64}"
    words = [f"{C6}=absent,{stage}", f"+{C7}=absent,{stage}", f"{C7}.dilation=1,2"]
    options = {"only_if": {C7: C6}, "sampler": "brute_force", "n_trials": 50}
    searcher = Searcher(grid, tmp_path, *words, **options)
    searcher.run()
    backbones = [point.run.config.backbone.stages for point in searcher.launched]
    found = [(*stages, stages["c7"].dilation if "c7" in stages else None) for stages in backbones]
    to_c5 = ("c2", "c3", "c4", "c5")
    assert sorted(found, key=str) == sorted(
        [
            (*to_c5, None),
            (*to_c5, "c6", None),
            (*to_c5, "c6", "c7", 1),
            (*to_c5, "c6", "c7", 2),
        ],
        key=str,
    )


MACS_OF_C6 = {64: 35_418_624, 128: 36_943_360, 256: 40_971_264}  # as detnet.cost counts them


def assert_only_c6_of_64(searcher: Searcher, num_trials: int) -> None:
    """The constraint lets only the narrowest stage pass; the others were never launched."""
    study = searcher.run()
    assert len(searcher.launched) == len(study.done) == num_trials
    for point in searcher.launched:
        assert cost(point.run.config.backbone).macs == MACS_OF_C6[64]
    for trial in study.trials:
        if trial.state == "infeasible":
            assert trial.reason.startswith(f"over macs {MACS_OF_C6[trial.params[WIDTH]]:g} >")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_launches_only_what_the_constraint_lets_pass(grid, tmp_path, sampler):
    words = [f"{WIDTH}=64,128,256", "protocol.warmup_steps=range(1,4)"]
    # beyond the trials that these two draw at random
    options = {"n_startup_trials": 2} if sampler in ("tpe", "gp") else {}
    if sampler == "nsga2":
        options = {"population_size": 2}
    searcher = Searcher(
        grid, tmp_path, *words, n_trials=3, sampler=sampler, sampler_options=options,
        constraints={"macs": 3.6e7},
    )  # fmt: skip
    assert_only_c6_of_64(searcher, 3)


@pytest.mark.parametrize(
    "storage", [None, "FOLDER/own.journal", "FOLDER/own.db", "sqlite:///FOLDER/url"]
)
def test_every_storage_keeps_a_study_and_goes_on_with_it(grid, tmp_path, storage):
    storage = storage and storage.replace("FOLDER", str(tmp_path))
    words, options = [f"{WIDTH}=64,128"], {"constraints": {"macs": 3.6e7}, "storage": storage}
    assert_only_c6_of_64(Searcher(grid, tmp_path, *words, n_trials=2, **options), 2)
    again = Searcher(grid, tmp_path, *words, n_trials=3, **options)
    study = again.run()
    # a study in memory ends with its process
    assert len(again.launched) == (3 if storage is None else 1)
    assert len(study.done) == 3


def test_infeasible_points_do_not_count_and_are_told_with_the_value(grid, tmp_path):
    words = [f"{C6}.width=64,512"]
    options = {"constraints": {"macs": 4e7}, "sampler": "random"}
    study = Searcher(grid, tmp_path, *words, n_trials=5, **options).run()
    states = [trial.state for trial in study.trials]
    assert states.count("done") == 5
    assert states.count("infeasible") > 0
    macs = {trial.reason for trial in study.trials if trial.state == "infeasible"}
    assert macs == {"over macs 5.29408e+07 > 4e+07"}


def test_a_search_without_any_feasible_point_ends_and_says_why(grid, tmp_path):
    searcher = Searcher(grid, tmp_path, WIDTHS, constraints={"macs": 1.0}, sampler="random")
    with pytest.raises(SearchError, match=f"the last {MAX_INFEASIBLE} trials .* over macs"):
        searcher.run()
    assert not searcher.launched


def test_values_that_make_no_network_together_are_infeasible(grid, tmp_path):
    words = [f"{C5}.projection=true,false", f"{C5}.stride=1,2"]
    study = Searcher(grid, tmp_path, *words, sampler="brute_force", n_trials=9).run()
    assert len(study.done) == 3
    (invalid,) = (trial for trial in study.trials if trial.state == "infeasible")
    assert dict(invalid.params) == {f"{C5}.projection": False, f"{C5}.stride": 2}
    assert "c5" in invalid.reason


def test_a_front_holds_what_no_other_trial_beats_in_both_objectives(grid, tmp_path):
    aps = {64: 0.2, 128: 0.1, 256: 0.3, 512: 0.25}

    def launch(point: PlannedPoint) -> Outcome:
        return write_run(point, aps[point.run.config.backbone.stages["c6"].width])

    objectives = {"AP": "maximize", "macs": "minimize"}
    options = {"sampler": "brute_force", "n_trials": 9, "objectives": objectives}
    searcher = Searcher(grid, tmp_path, f"{C6}.width=64,128,256,512", **options)
    study = searcher.run(launch)
    front = [trial.params[f"{C6}.width"] for trial in searcher.search.study.best_trials]
    assert sorted(front) == [64, 256]
    for trial in study.done:
        width = trial.params[f"{C6}.width"]
        spec = next(
            p.run.config.backbone for p in searcher.launched if p.run.digest == trial.digest
        )
        assert trial.values == (aps[width], cost(spec).macs)


def test_a_single_objective_is_optimized_in_its_direction(grid, tmp_path):
    """Against random search on a known function: the sampler learns, and not its opposite."""

    def launch(point: PlannedPoint) -> Outcome:
        return write_run(point, 1 - abs(point.run.config.protocol.learning_rate - 0.03))

    words = ["protocol.learning_rate=interval(0.0,1.0)"]
    study = Searcher(grid, tmp_path, *words, n_trials=25).run(launch)
    values = [trial.values[0] for trial in study.done]
    assert sum(values[15:]) / 10 > sum(values[:10]) / 10 + 0.1


def test_a_failed_trial_counts_and_keeps_its_reason(grid, tmp_path):
    study = Searcher(grid, tmp_path, WIDTHS, n_trials=2).run(
        lambda point: write_run(point, 0.5, "failed")
    )
    assert [(trial.state, trial.reason) for trial in study.trials] == [("failed", "why")] * 2


@pytest.mark.parametrize("status", ["lost", "stopped", "held"])
def test_a_trial_whose_run_did_not_end_runs_again_with_the_next_call(grid, tmp_path, status):
    options = {"n_trials": 2, "storage": str(tmp_path / "study.journal")}
    searcher = Searcher(grid, tmp_path, RATES, **options)
    first = searcher.run(lambda point: write_run(point, 0.5, status))
    assert {trial.state for trial in first.trials} == {"unfinished"}
    begun = len(searcher.launched)
    assert begun == (1 if status == "stopped" else 2)
    again = Searcher(grid, tmp_path, RATES, **options)
    second = again.run()
    assert [trial.state for trial in second.trials] == ["done", "done"]
    assert again.asked[:begun] == searcher.asked
    assert [trial.number for trial in second.trials] == [0, 1]


def test_known_variants_are_tried_first_and_others_are_told(grid, tmp_path, caplog):
    words = [f"{C6}.projection=true,false", f"{C6}.dilation=1,2", RATES]
    options = {"known": "ablation", "n_trials": 4, "sampler": "random"}
    searcher = Searcher(grid, tmp_path, "backbone=detnet59", *words, **options)
    study = searcher.run()
    first = [dict(trial.params) for trial in study.trials[:3]]
    assert first[0] == {
        f"{C6}.projection": True, f"{C6}.dilation": 2, "protocol.learning_rate": 0.001,
    }  # fmt: skip


def test_parallel_trials_wait_for_no_batch(grid, tmp_path):
    """The first trial ends only after three later ones have begun: a batch of two would hang."""
    others = threading.Semaphore(0)

    def launch(point: PlannedPoint) -> Outcome:
        if point is searcher.launched[0]:
            for _ in range(3):
                assert others.acquire(timeout=60), "the later trials never began"
        else:
            others.release()
        return write_run(point, 0.5)

    searcher = Searcher(grid, tmp_path, RATES, n_trials=4, n_jobs=2)
    assert [trial.state for trial in searcher.run(launch).trials] == ["done"] * 4


def test_two_trials_of_one_point_share_its_run(grid, tmp_path):
    released = threading.Event()

    def launch(point: PlannedPoint) -> Outcome:
        released.wait(timeout=5)
        return write_run(point, 0.5)

    searcher = Searcher(grid, tmp_path, "protocol.flip=true,true", n_trials=3, n_jobs=2)
    study = searcher.run(launch)
    assert len(study.done) == 3
    assert len({trial.digest for trial in study.done}) == 1


def config_of(grid: Grid, *words: str):
    return run_config(grid.loader.load_sweep_config(grid.master, [*TINY, *words]))


@pytest.mark.parametrize("backbone", ["backbone=detnet17", "backbone=detnet_resnet14"])
def test_memory_is_what_a_forward_pass_leaves_allocated(grid, backbone):
    words = [word for word in TINY if not word.startswith("backbone")]
    config = run_config(grid.loader.load_sweep_config(grid.master, [*words, backbone]))
    body = build_body(config).train()
    images = torch.rand(2, 3, 64, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        outputs = body(images)
    left = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    assert all(output.requires_grad for output in outputs)
    parameters = sum(p.numel() * p.element_size() for p in body.parameters())
    images_kept = images.numel() * images.element_size()
    counted = training_memory(config) - 3 * parameters - images_kept
    assert counted == pytest.approx(left, rel=0.02)


def test_costs_are_those_of_the_library_and_latency_is_a_time(grid):
    config = config_of(grid)
    found = costs_of(config, {"macs": 1, "params": 1, "activations": 1, "latency": 1})
    whole = cost(config.backbone)
    assert (found["macs"], found["params"]) == (whole.macs, whole.params)
    assert found["activations"] == whole.activations
    assert 0 < found["latency"] < 1e5


def test_a_classification_has_costs_too(grid):
    """AdamW keeps two moments of a parameter, SGD one."""

    def found(optimizer: str) -> dict[str, float]:
        words = ["task=classify", "backbone=detnet_atto", f"protocol.optimizer.name={optimizer}"]
        words += ["protocol.image_size=64", "protocol.batch_size=2"]
        config = run_config(grid.loader.load_sweep_config(grid.master, words))
        return costs_of(config, {"memory": 1, "latency": 1})

    parameters = list(
        detnet.create_from_spec(detnet.ZOO["detnet_atto"], features_only=True).parameters()
    )
    own = sum(parameter.nbytes for parameter in parameters)
    adamw, sgd = found("adamw"), found("sgd")
    # AdamW counts the steps of each parameter too, in 4 bytes
    assert adamw["memory"] - sgd["memory"] == own + 4 * len(parameters)
    assert adamw["latency"] > 0


@pytest.mark.slow
def test_a_study_in_sqlite_waits_for_whoever_writes_longer_than_sqlite_itself_does(tmp_path):
    path = tmp_path / "study.db"
    study = optuna.create_study(storage=storage_of(str(path)))
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    threading.Timer(7, lambda: writer.execute("COMMIT")).start()
    study.tell(study.ask(), 0.5)
    assert study.best_value == 0.5
