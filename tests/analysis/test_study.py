"""A search in the report: its history, its front with what is told apart, its parameters."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fabricated_runs import make_truth, write_run
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from ablations.record import RecordError, read_runs
from ablations.study.record import Study, Trial, read_studies, study_folder, write_study
from analysis.bootstrap import compare
from analysis.matched import MatchedRuns
from analysis.report import write_report
from analysis.study import MIN_DONE, history, importance, leading, told_apart

SKILLS = {"poor": 0.1, "good": 0.9, "as good": 0.9, "middling": 0.5}
RATE = distribution_to_json(FloatDistribution(0.0, 1.0))
CHOICE = distribution_to_json(CategoricalDistribution(("a", "b")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A runs folder with four variants; the detections of two are of the same skill."""
    folder = tmp_path_factory.mktemp("runs")
    truth = make_truth(num_images=40)
    for name, skill in SKILLS.items():
        write_run(folder, name.replace(" ", "_"), truth, skill=skill)
    return folder


def study_of(runs: Path, **objectives: str) -> Study:
    """A study whose trials are the runs, with one more that was pruned and one infeasible."""
    trials = []
    for run in read_runs(runs):
        record = run.record
        number = len(trials)
        values = [record.metrics["AP"], float(10 - number)][: len(objectives)]
        trials.append(
            Trial(
                number=number, state="done", params={"x": number / 10}, values=tuple(values),
                variant=record.variant, digest=record.digest, seed=record.seed,
            )
        )  # fmt: skip
    for state in ("pruned", "infeasible"):
        trials.append(Trial(number=len(trials), state=state, params={"x": 0.9}, reason="why"))
    return Study(
        name="mine", objectives=objectives, num_trials=6, sampler="tpe",
        distributions={"x": RATE}, trials=tuple(trials),
    )  # fmt: skip


def test_the_best_trials_are_told_apart_as_two_variants_are(runs):
    study, matched = study_of(runs, AP="maximize"), MatchedRuns()
    apart = told_apart(study, read_runs(runs), matched, 200)
    numbers = {trial.variant: trial.number for trial in study.done}
    assert apart.not_told_from(numbers["good"]) == [numbers["as_good"]]
    best, poor = numbers["good"], numbers["poor"]
    pair = (best, poor) if (best, poor) in apart.differences else (numbers["as_good"], poor)
    by_number = {trial.number: trial for trial in study.done}
    tables = []
    for number in pair:
        run = next(r for r in read_runs(runs) if r.record.digest == by_number[number].digest)
        tables.append(matched.of(run).matches["bbox"])
    alone = compare([tables[1]], [tables[0]], 200)["AP"]
    assert apart.differences[pair].value == pytest.approx(alone.value)
    assert (apart.differences[pair].low, apart.differences[pair].high) == pytest.approx(
        (alone.low, alone.high)
    )


def brute_force_front(values: np.ndarray) -> set[int]:
    """Rows that no other row beats, higher being better in every column."""
    beaten = [
        any((other >= row).all() and (other > row).any() for other in values) for row in values
    ]
    return {index for index, is_beaten in enumerate(beaten) if not is_beaten}


def test_the_front_is_what_no_other_trial_beats():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (30, 2)).astype(float)
    trials = tuple(
        Trial(number=i, state="done", params={}, values=tuple(row), digest=str(i))
        for i, row in enumerate(values)
    )
    study = Study(
        name="s", objectives={"AP": "maximize", "macs": "minimize"}, num_trials=30,
        sampler="random", trials=trials,
    )  # fmt: skip
    found = {trial.number for trial in leading(study)}
    assert found == brute_force_front(values * [1, -1])


@pytest.mark.parametrize(
    ("direction", "best"), [("maximize", [1, 3, 3, 3, 5]), ("minimize", [1, 1, 1, 0, 0])]
)
def test_the_history_holds_the_best_so_far(direction, best):
    values = [1.0, 3.0, None, 0.0, 5.0]
    trials = [
        Trial(
            number=i, state="done" if value is not None else "pruned", params={},
            values=None if value is None else (value,), digest=str(i),
        )
        for i, value in enumerate(values)
    ]  # fmt: skip
    trials.append(Trial(number=5, state="infeasible", params={}))
    study = Study(
        name="s", objectives={"macs": direction}, num_trials=5, sampler="tpe",
        trials=tuple(trials),
    )  # fmt: skip
    frame = history(study)
    assert frame["best"].tolist() == best
    assert frame["trial"].tolist() == [0, 1, 2, 3, 4]


def test_the_parameter_that_alone_decides_is_the_important_one():
    rng = np.random.default_rng(0)
    trials = []
    for number in range(40):
        x, choice = float(rng.random()), str(rng.choice(["a", "b"]))
        params = {"decides": x, "idle": choice}
        trials.append(Trial(number=number, state="done", params=params, values=(x,)))
    study = Study(
        name="s", objectives={"AP": "maximize"}, num_trials=40, sampler="random",
        distributions={"decides": RATE, "idle": CHOICE}, trials=tuple(trials),
    )  # fmt: skip
    shares = importance(study).set_index("parameter")["AP"]
    assert shares["decides"] > 0.9
    assert shares.sum() == pytest.approx(1)
    few = dataclasses.replace(study, trials=study.trials[: MIN_DONE - 1])
    assert importance(few).empty


@pytest.mark.parametrize("objectives", [{"AP": "maximize"}, {"AP": "maximize", "macs": "minimize"}])
def test_the_report_has_a_part_on_each_study(runs, tmp_path, objectives):
    study = study_of(runs, **objectives)
    write_study(study_folder(runs, study.name), study)
    write_report(runs, tmp_path, num_resamples=100, pictures="none")
    page = (tmp_path / "report.md").read_text()
    assert "## Search: mine" in page
    assert "4 done, 1 pruned, 1 infeasible" in page
    assert "not told from" in page
    assert "trial 4: pruned, why" in page
    assert (tmp_path / "figures" / "study-mine-history.svg").exists()
    assert "Search: mine" in (tmp_path / "report.html").read_text()


def test_a_study_is_read_as_it_was_written(tmp_path):
    study = Study(
        name="s", objectives={"AP": "maximize"}, num_trials=2, sampler="tpe",
        distributions={"x": RATE},
        trials=(Trial(number=0, state="done", params={"x": 0.5}, values=(0.25,)),),
    )  # fmt: skip
    write_study(study_folder(tmp_path, "s"), study)
    assert read_studies(tmp_path) == [study]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 9}', '{"schema": 1, "trials": 3}'])
def test_a_damaged_study_is_named_and_the_others_are_read(tmp_path, content):
    path = study_folder(tmp_path, "s") / "study.json"
    path.parent.mkdir()
    path.write_text(content)
    faults: list[str] = []
    assert read_studies(tmp_path, faults) == []
    assert str(path) in faults[0]
    with pytest.raises(RecordError, match=r"study\.json"):
        read_studies(tmp_path)
