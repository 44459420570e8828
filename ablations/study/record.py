"""What a search leaves in the runs folder: `study-<name>/study.json`, read with little else.

The trials' runs lie beside it as every run does; a trial says which is its own by digest and seed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablations.record import RecordError
from ablations.storage import write_json

SCHEMA = 1
STATES = ("done", "pruned", "infeasible", "failed", "unfinished")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point that a search proposed.

    `state` is done, pruned (stopped in training), infeasible (never trained), failed or unfinished
    (runs again with the same command). `values` are the objectives' in their order, of a trial that
    is done; `reason` says why another is not.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    values: tuple[float, ...] | None = None
    variant: str | None = None
    digest: str | None = None
    seed: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search: its objectives (name -> maximize or minimize) and its trials in order.

    `distributions` holds each parameter's as JSON in Optuna's format.
    """

    name: str
    objectives: Mapping[str, str]
    num_trials: int
    sampler: str
    distributions: Mapping[str, str] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()

    @property
    def done(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.state == "done")


def study_folder(runs: Path, name: str) -> Path:
    return runs / f"study-{name}"


def write_study(folder: Path, study: Study) -> None:
    """Replace `study.json` in one step; raises StorageError."""
    write_json(folder / "study.json", {"schema": SCHEMA, **asdict(study)})


def read_studies(runs: Path, faults: list[str] | None = None) -> list[Study]:
    """The studies of a runs folder, by name.

    A file that cannot be read is named in `faults` and left out; without a list it is raised as
    RecordError.
    """
    found = []
    for path in sorted(runs.glob("study-*/study.json")):
        try:
            found.append(read_study(path))
        except RecordError as error:
            if faults is None:
                raise
            faults.append(str(error))
    return found


def read_study(path: Path) -> Study:
    """Read one study.json; raises RecordError that names the file and the remedy."""
    try:
        content = json.loads(path.read_text())
        if (schema := content.pop("schema")) != SCHEMA:
            raise RecordError(
                f"{path}: schema {schema}, this version reads {SCHEMA}: use the version of this "
                "project that wrote it"
            )
        trials = []
        for each in content.pop("trials"):
            values = each.pop("values")
            trials.append(Trial(values=None if values is None else tuple(values), **each))
            if trials[-1].state not in STATES:
                raise ValueError(f"state {trials[-1].state!r} is none of {', '.join(STATES)}")
        return Study(trials=tuple(trials), **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"{path}: no readable study ({error}); move it away and the same search writes it anew"
        ) from error
