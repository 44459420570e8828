"""One run, from its config to its record: skipped if done, resumed if cut off, marked if failed."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.computing import compute
from ablations.config import RunConfig, as_plain
from ablations.planning import PlannedRun, backbone_cost, plan_run
from ablations.ranks import compute_in_ranks
from ablations.record import RESULTS_VERSION, RunRecord, retire, write_record
from ablations.runtime import (
    PrunedError,
    Runtime,
    StoppedError,
    select_device,
    stopped_by_signals,
    use_threads,
)
from ablations.storage import HeldElsewhereError, StorageError, held, set_aside
from ablations.training.losses import NonFiniteLossError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    `status` is done, skipped (done before), outdated (done before, under an older results version,
    and kept), pruned (by a search, in training), held (another process is at work on it), stopped
    (by a signal), queued (a cluster has its job, whose sweep was interrupted), failed, or lost (its
    process died).
    """

    variant: str
    seed: int
    status: str
    digest: str = ""
    folder: str = ""
    error: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def is_fault(self) -> bool:
        """Whether a sweep that holds it has not done what was asked."""
        return self.status in ("stopped", "queued", "failed", "lost")


def execute(config: RunConfig, variant: str) -> Outcome:
    """Plan the run and do it; a failure is told as its outcome, not raised."""
    try:
        planned = plan_run(config, variant)
    except Exception as error:
        return _told_failure(error, {"variant": variant, "seed": config.seed})
    return execute_planned(planned)


def execute_planned(planned: PlannedRun) -> Outcome:
    """Do the run and leave its record; a failure is recorded and told, not raised."""
    try:
        if (earlier := done_before(planned)) is not None:
            return earlier
        try:
            return _execute_alone(planned, wait=False)
        except HeldElsewhereError as error:
            if not planned.config.job.wait:
                raise
            log.info("%s seed %d waits: %s", planned.variant, planned.config.seed, error)
            return _execute_alone(planned, wait=True)
    except HeldElsewhereError as error:
        log.info("%s seed %d is left alone: %s", planned.variant, planned.config.seed, error)
        return Outcome(status="held", error=str(error), **planned.place)
    except Exception as error:
        return _told_failure(error, planned.place)


def _execute_alone(planned: PlannedRun, *, wait: bool) -> Outcome:
    with held(planned.folder, wait=wait), _logged_to(planned.folder / "log.txt"):
        # by another process, until a moment ago
        if (earlier := done_before(planned)) is not None:
            return earlier
        return _execute_held(planned)


def _execute_held(planned: PlannedRun) -> Outcome:
    place = planned.place
    try:
        _make_way(planned)
        job = planned.config.job
        device = select_device(job.device, world_size=job.processes)
        planned.task.check_device(device)
        with stopped_by_signals() as stop:
            metrics = _run(planned, Runtime(device, world_size=job.processes, stop=stop))
        return Outcome(status="done", metrics=metrics, **place)
    except StoppedError as error:
        log.warning("%s seed %d is stopped by %s", place["variant"], place["seed"], error)
        return Outcome(status="stopped", error=str(error), **place)
    except PrunedError as error:
        log.info("%s seed %d is %s", place["variant"], place["seed"], error)
        return Outcome(status="pruned", error=str(error), **place)
    except Exception as error:
        return _told_failure(error, place)


def _told_failure(error: Exception, place: dict[str, Any]) -> Outcome:
    summary = f"{type(error).__name__}: {error}"
    # These say all there is to say; the record keeps every traceback
    expected = isinstance(error, ValueError | StorageError | NonFiniteLossError)
    log.error(
        "%s seed %d failed: %s", place["variant"], place["seed"], summary, exc_info=not expected
    )
    return Outcome(status="failed", error=summary, **place)


def done_before(planned: PlannedRun) -> Outcome | None:
    """What is known of a run that needs no work, with a word; None where it needs some."""
    status, record = planned.found()
    where = f"{planned.variant} seed {planned.config.seed}"
    if record is not None and status == "done":
        log.info("%s is done already: %s", where, planned.folder)
        _renew_validation_data(planned, record)
        return Outcome(status="skipped", metrics=record.metrics, **planned.place)
    if record is not None and status == "outdated" and not planned.config.job.retrain_outdated:
        log.warning(
            "%s was done under results version %d, this is %d: it is kept as it is, and "
            "job.retrain_outdated=true trains it anew (%s)",
            where, record.results_version, RESULTS_VERSION, planned.folder,
        )  # fmt: skip
        return Outcome(status="outdated", metrics=record.metrics, **planned.place)
    return None


def _renew_validation_data(planned: PlannedRun, record: RunRecord) -> None:
    """Write what lies beside a done run anew where it is gone or damaged."""
    task = planned.task
    # A record of schema 1 names the same data by another fingerprint
    if record.data.get("val_fingerprint") != task.data_summary()["val_fingerprint"]:
        return
    try:
        task.leave_validation_data(planned.folder.parents[1], planned.config.job.num_sample_images)
    except StorageError as error:
        log.warning("%s", error)


def _make_way(planned: PlannedRun) -> None:
    """Put away what an older results version or a damaged file left in the run's folder.

    A checkpoint of an older results version is not continued: its run would be of neither.
    """
    status, record = planned.found()
    if status == "unreadable":
        aside = set_aside(planned.folder / "record.json")
        log.warning("the record cannot be read and is set aside as %s", aside)
    elif record is not None and record.is_outdated:
        log.info("what an older results version left is kept in %s", retire(planned.folder))


def record_of(planned: PlannedRun, status: str, **values: Any) -> RunRecord:
    """The run's record with what is known before it runs, and `values`."""
    return RunRecord(
        variant=planned.variant,
        seed=planned.config.seed,
        digest=planned.digest,
        status=status,
        config=as_plain(planned.config),
        data=planned.task.data_summary(),
        **values,
    )


def _run(planned: PlannedRun, runtime: Runtime) -> dict[str, float | None]:
    config, task = planned.config, planned.task
    use_threads(config.job.num_threads, runtime.world_size)
    known: dict[str, Any] = {}
    try:
        known = {"env": runtime.describe(), "cost": backbone_cost(config)}
        write_record(planned.folder, record_of(planned, "running", **known))
        if runtime.world_size > 1:
            results = compute_in_ranks(planned, runtime)
        else:
            results = compute(planned, runtime)
    except StoppedError:
        raise  # to be continued: the record stays "running"
    except PrunedError as error:
        write_record(planned.folder, record_of(planned, "pruned", error=str(error), **known))
        raise
    except Exception as error:
        failed = record_of(planned, "failed", error=traceback.format_exc(), **known)
        _write_if_possible(planned.folder, failed, error)
        raise
    done = record_of(planned, "done", **results._asdict(), **known)
    write_record(planned.folder, done)
    value = results.metrics[task.primary_metric]
    log.info(
        "%s seed %d: %s %s  %s",
        planned.variant, config.seed, task.primary_metric,
        "-" if value is None else f"{value:.4f}", planned.folder,
    )  # fmt: skip
    return results.metrics


def _write_if_possible(folder: Path, record: RunRecord, error: Exception) -> None:
    try:
        write_record(folder, record)
    except StorageError as storage_error:
        # of a full disk, say, on which the run itself failed: tell the first fault
        error.add_note(f"its record could not be written either: {storage_error}")


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
