"""What a sweep costs beside its training: planning, skipping, launching, reading.

    python benchmarks/sweep.py [--quick] [--only NAME ...]

Fabricates finished runs (200 variants x 5 seeds), then measures the project's own commands on them,
each in a process of its own, and prints one table and whether each target is met. A no-op run is
one that finds itself done: its job is launched, composed and planned, and trains nothing. Launchers
that are not installed are left out, with a word. Seconds are CPU seconds of the process and its
children, but for launchers, whose jobs may run elsewhere: there they are elapsed.
"""

import argparse
import gc
import importlib.util
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SEEDS = 5
TINY = [
    "backbone=detnet_atto",
    "data.image_size=64",
    "protocol.short_side=[64]",
    "protocol.long_side=64",
    "protocol.milestones=[]",
    "protocol.max_train_images=4",
    "protocol.max_val_images=4",
    "job.num_workers=0",
    "job.device=cpu",
]
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "submitit_slurm": ["hydra/launcher=submitit_slurm"],
    "ray": ["hydra/launcher=ray"],
}
Row = tuple[str, float, float | None]
"""What, how many seconds, and the target where there is one."""


def sweep_words(runs: Path, num_variants: int) -> list[str]:
    """Arguments of a sweep of `num_variants` x SEEDS runs: values differ, choices do not."""
    rates = ",".join(f"{0.01 + 0.0001 * k:.4f}" for k in range(num_variants))
    seeds = f"seed=range(0,{SEEDS})"
    return [*TINY, f"job.runs={runs}", f"protocol.learning_rate={rates}", seeds]


def fabricate(words: Sequence[str], metrics: dict[str, float]) -> None:
    """Leave the record of every run of a sweep as if it had been done."""
    from ablations.plan import planned_runs
    from ablations.planning import backbone_cost
    from ablations.record import write_record
    from ablations.run import record_of

    for run in planned_runs(words):
        cost = backbone_cost(run.config)
        cells: dict[str, Any] = {
            "bbox": {"AP": [[[0.5] * 3] * 4] * 10, "AR": [[[0.5] * 3] * 4] * 10}
        }
        record = record_of(run, "done", metrics=metrics, cost=cost, cells=cells, env={"torch": "2"})
        write_record(run.folder, record)


def seconds_of(*command: str, elapsed: bool = False) -> float:
    """CPU (or elapsed) seconds of a command and its children; raises where it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if elapsed:
        return time.monotonic() - begun
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def planning(folder: Path, num_variants: int) -> list[Row]:
    """Plan and skip what is done; both without the seconds in which Python imports torch."""
    words = sweep_words(folder / "runs", num_variants)
    num_runs = num_variants * SEEDS
    missing = seconds_of("ablations.plan", *words)
    fabricate(words, {"AP": 0.5, "AP50": 0.6})
    start = seconds_of("ablations.plan", "--help")
    return [
        ("start of a command", start, None),
        (f"plan {num_runs:,} missing runs", missing - start, None),
        (f"plan {num_runs:,} finished runs", seconds_of("ablations.plan", *words) - start, 5),
        (
            f"skip {num_runs:,} finished runs",
            seconds_of("ablations.train", "-m", *words) - start,
            5,
        ),
    ]


def reading(folder: Path, num_records: int) -> list[Row]:
    """Read records that lie as the runs of `num_records` / SEEDS variants."""
    from ablations.record import read_record, read_runs, write_record

    words = sweep_words(folder / "one", 1)
    fabricate(words, {f"metric_{k}": 0.5 for k in range(24)})
    (path, *_) = (folder / "one").glob("*/seed0/record.json")
    record = read_record(path)
    for number in range(num_records):
        record.digest, record.seed = f"{number // SEEDS:016x}", number % SEEDS
        record.config["seed"] = record.seed
        write_record(folder / "many" / f"v-{record.digest}" / f"seed{record.seed}", record)
    begun = time.process_time()
    assert len(read_runs(folder / "many")) == num_records
    return [(f"read {num_records:,} records", time.process_time() - begun, 10)]


def launching(folder: Path, num_jobs: int) -> list[Row]:
    """Elapsed seconds of a no-op run under each launcher, of `num_jobs` jobs."""
    words = [*TINY, f"job.runs={folder / 'runs'}", f"seed=range(0,{num_jobs})"]
    fabricate(words, {"AP": 0.5})
    rows: list[Row] = []
    for name, launcher in LAUNCHERS.items():
        package = name if name == "ray" else name.partition("_")[0]
        if name != "basic" and not importlib.util.find_spec(
            f"hydra_plugins.hydra_{package}_launcher"
        ):
            print(f"{name}: not installed")
            continue
        if name == "submitit_slurm" and "SLURM_CONF" not in os.environ:
            print(f"{name}: SLURM_CONF is not set, no Slurm is tried")
            continue
        place = [f"hydra.launcher.submitit_folder={folder}/jobs"] if package == "submitit" else []
        # Hydra's own sweeper launches what is done, too
        command = ["ablations.train", "-m", "hydra/sweeper=basic", *launcher, *place, *words]
        elapsed = seconds_of(*command, elapsed=True)
        rows.append((f"no-op run, {name} (of {num_jobs} jobs)", elapsed / num_jobs, None))
    return rows


def crowding(folder: Path, num_jobs: int) -> list[Row]:
    """Runs that train nothing, started at once over one folder: their locks and their records."""
    from ablations.plan import planned_runs
    from ablations.record import read_runs

    words = [*TINY, f"job.runs={folder / 'runs'}", f"seed=range(0,{num_jobs})"]
    each_its_own, worst = _at_once(planned_runs(words))
    assert len(read_runs(folder / "runs")) == num_jobs
    (same,) = planned_runs([*TINY, f"job.runs={folder / 'same'}"])
    all_the_same, _ = _at_once([same] * num_jobs)
    assert len(read_runs(folder / "same")) == 1
    return [
        (f"{num_jobs} runs at once, each its own: all", each_its_own, None),
        (f"{num_jobs} runs at once, each its own: the slowest", worst, None),
        (f"{num_jobs} processes at once at one run", all_the_same, None),
    ]


def _at_once(planned: Sequence[Any]) -> tuple[float, float]:
    """Elapsed seconds until all are done, and of the slowest once all had started."""
    context = multiprocessing.get_context("fork")
    gate, seconds = context.Barrier(len(planned)), context.SimpleQueue()
    jobs = [context.Process(target=_do_nothing, args=(run, gate, seconds)) for run in planned]
    begun = time.monotonic()
    gc.freeze()  # or each process copies all that it has inherited
    for job in jobs:
        job.start()
    told = [seconds.get() for _ in jobs]
    for job in jobs:
        job.join()
    assert all(status in ("done", "held", "skipped") for status, _ in told), told
    return time.monotonic() - begun, max(taken for _, taken in told)


def _do_nothing(planned: Any, gate: Any, seconds: Any) -> None:
    from ablations import run
    from ablations.record import detections_path, write_record
    from ablations.storage import write_json_gz

    def leave_files(planned: Any, _: Any) -> dict[str, float | None]:
        write_record(planned.folder, run.record_of(planned, "running"))
        planned.task.leave_validation_data(planned.folder.parents[1], 1)
        write_json_gz(detections_path(planned.folder), [])
        write_record(planned.folder, run.record_of(planned, "done", metrics={"AP": 0.5}))
        return {"AP": 0.5}

    run.__dict__["_run"] = leave_files
    gate.wait()
    begun = time.monotonic()
    outcome = run.execute_planned(planned)
    seconds.put((outcome.status, time.monotonic() - begun))


def studying(folder: Path, num_workers: int) -> list[Row]:
    """Processes that each take part in one study at once, as trials on as many nodes would."""
    import optuna

    from ablations.study.storage import quiet, storage_of

    quiet()
    context = multiprocessing.get_context("fork")
    rows: list[Row] = []
    for kind in ("journal", "db"):
        path = str(folder / f"study.{kind}")
        study = optuna.create_study(study_name="s", storage=storage_of(path))
        workers = [context.Process(target=_take_part, args=(path,)) for _ in range(num_workers)]
        begun = time.monotonic()
        gc.freeze()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        elapsed = time.monotonic() - begun
        ended = [trial.number for trial in study.trials if trial.state.is_finished()]
        told = f"{num_workers} trials of one study at once, {Path(path).name}"
        rows.append((f"{told} ({len(ended)} kept)", elapsed, None))
        assert len(set(ended)) == len(ended)
    return rows


def _take_part(path: str) -> None:
    import optuna

    from ablations.study.storage import storage_of

    study = optuna.load_study(study_name="s", storage=storage_of(path))
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    study.tell(trial, 0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 where a target is missed."""
    parser = argparse.ArgumentParser(description="Measure what a sweep costs beside its training.")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size, no targets")
    parts: dict[str, Callable[[Path], list[Row]]]
    scale = 20 if "--quick" in (arguments or sys.argv) else 1
    parts = {
        "planning": lambda folder: planning(folder, 200 // scale),
        "reading": lambda folder: reading(folder, 10_000 // scale),
        "crowding": lambda folder: crowding(folder, 200 // scale),
        "studying": lambda folder: studying(folder, 200 // scale),
        "launching": lambda folder: launching(folder, max(2, 8 // scale)),
    }
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    options = parser.parse_args(arguments)
    missed = 0
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            for what, seconds, target in parts[name](Path(folder)):
                is_missed = target is not None and seconds > target and not options.quick
                missed += is_missed
                told = "" if target is None else f"  target {target:g}{', missed' * is_missed}"
                print(f"{what:52} {seconds:8.2f} s{told}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
