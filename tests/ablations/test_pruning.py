"""Evaluations during training: they change nothing of it, and stop what is significantly worse."""

import json
import random
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from commands import train
from fake_coco import break_ties, make_task
from torch import nn

from ablations.config import TrialConfig
from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import match
from ablations.evaluation.metrics import METRICS
from ablations.evaluation.paired import Draws, draw, p_not_below
from ablations.record import evaluations_path, read_runs
from ablations.study.pruning import PRUNERS, TrialOfRun
from ablations.study.record import read_study
from ablations.study.storage import storage_of
from ablations.training.loop import undisturbed
from analysis.bootstrap import compare, correct

CPU = torch.device("cpu")


def weights_of(runs: Path) -> dict[str, torch.Tensor]:
    (run,) = read_runs(runs)
    assert run.record.status == "done"
    return torch.load(run.folder / "checkpoint.pt", weights_only=True)["model"]


def assert_equal_to_the_bit(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run that was never evaluated during its training."""
    runs = tmp_path_factory.mktemp("plain")
    assert train(runs).returncode == 0
    return runs


def test_evaluations_during_training_change_no_weight_and_no_loss(plain, tmp_path):
    done = train(tmp_path, "job.evaluate_every=3")
    assert done.returncode == 0, done.stdout
    assert_equal_to_the_bit(weights_of(plain), weights_of(tmp_path))
    (one,), (other,) = read_runs(plain), read_runs(tmp_path)
    assert one.curve() == other.curve()
    assert one.record.metrics == other.record.metrics
    assert one.record.digest == other.record.digest
    assert [row["step"] for row in other.evaluations()] == [3, 6]
    assert other.evaluations()[0]["metrics"].keys() == other.record.metrics.keys()


def test_a_pruned_run_is_named_and_ends_as_any_other_when_asked_for_again(plain, tmp_path):
    search = ["-m", "hydra/sweeper=search", "hydra.sweeper.n_trials=1", "protocol.flip=true,true"]
    prune = ["hydra.sweeper.pruner=threshold", "hydra.sweeper.pruner_options={lower:0.9}"]
    done = train(tmp_path, *search, *prune, "job.evaluate_every=3")
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = read_study(tmp_path / "study-search" / "study.json").trials
    assert (trial.state, trial.reason) == ("pruned", "pruned at step 3 by threshold")
    (run,) = read_runs(tmp_path)
    assert (run.record.status, run.record.error) == ("pruned", trial.reason)
    again = train(tmp_path)
    assert "going on from step 3" in again.stdout
    assert_equal_to_the_bit(weights_of(plain), weights_of(tmp_path))


def test_modules_and_random_numbers_are_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()))
    model.train()
    model[1][0].eval()  # a frozen norm, as some backbones have
    statistics = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with undisturbed(model, CPU):
        model.eval()
        model(torch.rand(1, 1, 2, 2))
        random.random()
        np.random.rand()  # noqa: NPY002
    assert [m.training for m in model.modules()] == [True, True, True, False, True]
    assert_equal_to_the_bit(statistics, model.state_dict())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # noqa: NPY002


def tables(num_images: int, noise: float):
    """Matches of two models on the same images; the second has its boxes moved."""
    instances, results = make_task(0, num_images=num_images)
    moves = np.random.default_rng(0).normal(0, noise, (len(results), 4))
    moved = [
        {**result, "bbox": np.abs(np.add(result["bbox"], move)).tolist()}
        for result, move in zip(results, moves, strict=True)
    ]
    truth = Truth.from_coco(instances)
    return [
        match(truth, Detections.from_coco(break_ties(each), truth), "bbox")
        for each in (results, moved)
    ]


@pytest.mark.parametrize("metric", ["AP", "AP50", "AP_small"])
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_the_paired_test_is_that_of_the_comparison_of_two_runs(metric, noise):
    one, other = tables(40, noise)
    p = p_not_below(*(draw(table, METRICS[metric], 100) for table in (other, one)))
    compared = correct({"": compare([other], [one], num_resamples=100)})[""][metric]
    assert p == pytest.approx(compared.p_not_better, rel=1e-9)


def test_on_few_images_nothing_is_significant():
    one, other = (draw(table, METRICS["AP"], 100) for table in tables(15, 20.0))
    assert one.values[0] > other.values[0] + 0.1
    assert p_not_below(other, one) == 1.0


def test_draws_of_different_images_are_not_compared():
    with pytest.raises(ValueError, match="not the same"):
        p_not_below(Draws([0.5], 30, 30), Draws([0.5], 31, 31))


BEST, DIGEST = 0.5, "0123456789abcdef"


def study_with_a_best_trial(tmp_path: Path, direction: str = "maximize") -> TrialConfig:
    """A study whose trial 0 is done, with an evaluation at step 4, and trial 1 runs."""
    storage = str(tmp_path / "studies.journal")
    study = optuna.create_study(
        study_name="s", storage=storage_of(storage), direction=direction,
    )  # fmt: skip
    best = study.ask()
    best.set_user_attr("digest", DIGEST)
    best.set_user_attr("seed", 0)
    study.tell(best, BEST)
    study.ask()
    folder = tmp_path / f"best-{DIGEST}" / "seed0"
    folder.mkdir(parents=True)
    row = {"step": 4, "metrics": {"AP": BEST}, "draws": draws_around(BEST)._asdict()}
    evaluations_path(folder).write_text(json.dumps(row) + "\n")
    return TrialConfig(study="s", storage=storage, number=1, pruner="paired")


def draws_around(value: float, seed: int = 0) -> Draws:
    noise = np.random.default_rng(seed).normal(0, 0.02, 200)
    return Draws([value, *(value + noise)], 100, 100)


@pytest.mark.parametrize(
    ("direction", "value", "is_stopped"),
    [
        ("maximize", 0.3, True),
        ("maximize", 0.499, False),
        ("maximize", 0.7, False),
        ("minimize", 0.3, False),
        ("minimize", 0.7, True),
    ],
)
def test_a_trial_is_stopped_only_when_it_is_significantly_worse_than_the_best(
    tmp_path, direction, value, is_stopped
):
    trial = TrialOfRun(
        study_with_a_best_trial(tmp_path, direction), tmp_path / "own-1" / "seed0", 2
    )
    own = draws_around(value, seed=1)
    reason = trial.reason_to_stop(4, value, own)
    assert (reason is not None) == is_stopped
    if reason is not None:
        assert "pruned at step 4" in reason
        assert "of trial 0 on the same images" in reason
    (_, running) = trial.study.trials
    assert running.intermediate_values == {4: value}


def test_where_the_best_trial_has_no_evaluation_at_the_step_nothing_is_stopped(tmp_path):
    trial = TrialOfRun(study_with_a_best_trial(tmp_path), tmp_path / "own-1" / "seed0", 2)
    assert trial.reason_to_stop(8, 0.1, draws_around(0.1)) is None


def test_equal_models_are_stopped_no_oftener_than_the_level_says():
    """Of two models that are equally good on images of the kind, over many sets of images."""
    rng = np.random.default_rng(0)
    num_images, num_sets, level = 60, 400, 0.05
    counts = rng.multinomial(num_images, np.full(num_images, 1 / num_images), 200)
    stopped = 0
    for _ in range(num_sets):
        scores = rng.normal(0.5, 0.2, (2, num_images))
        one, other = (
            Draws([each.mean(), *(counts @ each / num_images)], num_images, num_images)
            for each in scores
        )
        stopped += p_not_below(one, other) < level
    # four standard errors of a share of 400
    assert abs(stopped / num_sets - level) < 4 * (level * (1 - level) / num_sets) ** 0.5


@pytest.mark.parametrize("name", ["median", "percentile", "successive_halving", "hyperband"])
def test_optunas_pruners_are_asked_as_optuna_asks_them(tmp_path, name):
    """What a run is told of its trial is what the trial itself would say."""
    options = {"percentile": {"percentile": 50.0}}.get(name, {})
    options |= {"n_startup_trials": 2} if name in ("median", "percentile") else {}
    storage = str(tmp_path / "studies.journal")
    study = optuna.create_study(
        study_name="s", storage=storage_of(storage), pruner=PRUNERS[name](**options)
    )
    for value in (0.1, 0.2, 0.3):
        done = study.ask()
        for step in (1, 2, 4):
            done.report(value, step)
        study.tell(done, value)
    asked = study.ask()
    twin = study.ask()  # reports the same here, as Optuna's users do
    twin.report(9.0, 4)
    config = TrialConfig(
        study="s", storage=storage, number=asked.number, pruner=name, pruner_options=options
    )
    reason = TrialOfRun(config, tmp_path / "own-1" / "seed0", 3).reason_to_stop(4, 9.0, None)
    assert (reason is not None) == twin.should_prune()
    if name in ("median", "percentile"):
        assert reason == f"pruned at step 4 by {name}"


def test_an_evaluation_that_an_earlier_process_reported_is_reported_once(tmp_path, recwarn):
    config = study_with_a_best_trial(tmp_path)
    for _ in range(2):
        trial = TrialOfRun(config, tmp_path / "own-1" / "seed0", 2)
        assert trial.reason_to_stop(4, 0.5, draws_around(0.5)) is None
    assert not [warning for warning in recwarn if "already reported" in str(warning.message)]
