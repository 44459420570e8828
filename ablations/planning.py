"""What a run needs before it is done: its data opened, its digest, its folder."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ablations.config import DETECT, RunConfig, TimmBackbone, run_digest
from ablations.record import RecordError, RunFolders, RunRecord, read_record, run_folder
from ablations.tasks import TASKS
from ablations.tasks.network import build_classifier, with_own_weights
from ablations.tasks.task import Task
from ablations.trackers import check_trackers
from detnet.cost import cost


@dataclass(frozen=True)
class PlannedRun:
    """A run before it is done: its opened task, its digest and its folder."""

    config: RunConfig
    variant: str
    task: Task
    digest: str
    folder: Path

    @property
    def place(self) -> dict[str, Any]:
        """What every outcome of this run says."""
        return {
            "variant": self.variant,
            "seed": self.config.seed,
            "digest": self.digest,
            "folder": str(self.folder),
        }

    @property
    def status(self) -> str:
        """See `found`."""
        return self.found()[0]

    def found(self) -> tuple[str, RunRecord | None]:
        """What lies in the folder now, and the record where there is one that can be read.

        done, outdated (done, under an older results version), failed, pruned (by a search), running
        (or cut off), unreadable, or missing.
        """
        path = self.folder / "record.json"
        if not path.exists():
            return "missing", None
        try:
            record = read_record(path)
        except RecordError:
            return "unreadable", None
        is_outdated = record.status == "done" and record.is_outdated
        return "outdated" if is_outdated else record.status, record


@dataclass
class PlannedVariant:
    """What the runs of a variant share whatever their seed: the opened task and its digests.

    `former_digest` is what records of schema 1, which knew detection only, are found by: they knew
    images by their sizes.
    """

    config: RunConfig
    name: str
    task: Task
    digest: str
    former_digest: str | None
    _model_is_checked: bool = field(default=False, init=False)

    def run(self, seed: int, folders: RunFolders) -> PlannedRun:
        """The run of a seed; raises ValueError where it could not run.

        The network of a run that is done was built once: it is not built again to check it.
        """
        run = self._located(seed, folders)
        if run.status not in ("done", "outdated") and not self._model_is_checked:
            run.task.check_model()
            self._model_is_checked = True
        return run

    def _located(self, seed: int, folders: RunFolders) -> PlannedRun:
        config, task = self.config, self.task
        if seed != config.seed:
            config = replace(config, seed=seed)
            config.check_seed()
            task = task.with_config(config)
        if (folder := folders.find(self.digest, seed)) is not None:
            return PlannedRun(config, self.name, task, self.digest, folder)
        former = self.former_digest
        if former is not None and (folder := folders.find(former, seed)) is not None:
            kept = PlannedRun(config, self.name, task, former, folder)
            # never continued
            if kept.status == "outdated" and not config.job.retrain_outdated:
                return kept
        folder = run_folder(folders.runs, self.name, self.digest, seed)
        return PlannedRun(config, self.name, task, self.digest, folder)


def plan_variant(config: RunConfig, name: str) -> PlannedVariant:
    """Open the data; raises ValueError that names what is wrong."""
    runs = runs_folder(config)
    if runs.exists() and not runs.is_dir():
        raise RecordError(f"job.runs={config.job.runs}: is a file; name a folder")
    config = with_own_weights(config)
    check_trackers(config.job.trackers)
    task = TASKS[config.task].open(config)
    data = task.data_summary()
    # Records of schema 1 are of detectors alone
    former = run_digest(config, data, "fingerprint_by_size") if config.task == DETECT else None
    return PlannedVariant(config, name, task, run_digest(config, data), former)


def plan_run(config: RunConfig, variant: str) -> PlannedRun:
    """Open the data and find the run's folder; raises ValueError that names what is wrong."""
    planned = plan_variant(config, variant)
    return planned.run(config.seed, RunFolders(runs_folder(config)))


def runs_folder(config: RunConfig) -> Path:
    """Where the config's runs lie."""
    return Path(config.job.runs).expanduser()


_costs: dict[str, dict[str, Any]] = {}


def backbone_cost(config: RunConfig) -> dict[str, Any]:
    """Params, MACs and so on of the backbone at 224 x 224, the field's convention.

    Counted once: the runs of a sweep mostly share their backbones.
    """
    key = repr(config.backbone)
    if key not in _costs:
        _costs[key] = _count(config)
    return _costs[key]


def _count(config: RunConfig) -> dict[str, Any]:
    if not isinstance(config.backbone, TimmBackbone):
        return asdict(cost(config.backbone))
    with torch.device("meta"):
        return asdict(cost(build_classifier(config.backbone)))
