"""What a run leaves behind: one record per run, written in one step, read with little else.

A runs folder looks like this; nothing in it carries a time stamp, so the same command finds what
it left before:

    runs/
      table-<name>-<digest>.json           the variants of a table, in order, and its baseline
      sweep-<digest>.json                  the runs that a sweep planned
      val-<fingerprint>/truth.json.gz      what detections are scored against (COCO instances)
      val-<fingerprint>/images/<id>.png    a few validation images, for the pictures
      <variant>-<digest>/latency.json      what `ablations.latency` measured of it, and
                         receptive_field.json  what `ablations.receptive_field` did
      <variant>-<digest>/seed<k>/record.json
                                 curve.jsonl, checkpoint.pt, detections.json.gz
                                 (of a classification: classes.json.gz, weights.safetensors)
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from ablations import schema_1
from ablations.evaluation.metrics import METRICS
from ablations.identity import digest
from ablations.storage import StorageError, read_json_gz, write_json

SCHEMA = 2
"""What the fields of a record mean. Records of schema 1 are read too (`schema_1`)."""
RESULTS_VERSION = 4
"""Raised whenever CHANGELOG says that the same config now gives other results.

1: records of schema 1. 2: crowds, difficult objects and objects without a mask no longer train as
background. 3: images are resized as bytes, with antialiasing; upright and wide ones
train in batches of their own; anchors and RoIs are drawn by other random numbers. 4: polygons are
drawn at the size that their image is trained at.
"""
DETECTIONS_FILE, CLASSES_FILE = "detections.json.gz", "classes.json.gz"
"""What a run keeps of its predictions, by task."""
TRUTH_REMEDY = "the training command of its runs, given again, writes it anew"
STATUSES = ("running", "done", "failed", "pruned")
_FRACTIONS = {"AP", "AR", *METRICS}
"""Fields of a record's cells that are scores."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]*")
_RUN_FOLDER = re.compile(r"(?P<variant>.+)-(?P<digest>[0-9a-f]+)")


class RecordError(ValueError):
    """A record or a run folder is not what it should be; the message names the file."""


@dataclass(kw_only=True)
class RunRecord:
    """Everything a table or a plot needs of one run (variant x seed).

    `metrics` holds fractions under the names of `evaluation.metrics`; an absent cell is None.
    `cells` holds AP and AR of every IoU threshold x scale x maxDets, by IoU type. `env` holds the
    versions, this project's among them, the device and the number of threads. `results_version`
    says which `RESULTS_VERSION` computed it.
    """

    variant: str
    seed: int
    digest: str
    status: str
    config: dict[str, Any]
    schema: int = SCHEMA
    results_version: int = RESULTS_VERSION
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    cells: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def results_since(self) -> int:
        """The oldest results version that computes the same from this record's config."""
        return _last_change(self.results_version, self.config)

    @property
    def is_outdated(self) -> bool:
        """Whether today's code would compute other results from this record's config."""
        return self.results_since < _last_change(RESULTS_VERSION, self.config)


def _draws_polygons(config: dict[str, Any]) -> bool:
    is_of = {part: (config.get(part) or {}).get("type") for part in ("detector", "data")}
    return is_of["detector"] == "mask_rcnn" and is_of["data"] in ("coco", "coco2017")


CHANGED_FOR: dict[int, Callable[[dict[str, Any]], bool]] = {4: _draws_polygons}
"""Which configs a results version gives other results for, where it is not all."""


def _last_change(version: int, config: dict[str, Any]) -> int:
    while version in CHANGED_FOR and not CHANGED_FOR[version](config):
        version -= 1
    return version


@dataclass(frozen=True)
class Run:
    """A run folder and the record in it."""

    folder: Path
    record: RunRecord
    latency: dict[str, Any] = field(default_factory=dict)
    """What `ablations.latency` measured of this variant; empty where it has not."""
    receptive_field: dict[str, Any] = field(default_factory=dict)
    """What `ablations.receptive_field` measured of this variant; empty where it has not."""

    @property
    def detections_path(self) -> Path:
        return detections_path(self.folder)

    @property
    def validation_folder(self) -> Path:
        """Where the truth and the sample images of this run's validation data lie."""
        return validation_folder(self.folder.parents[1], self.record.data["val_fingerprint"])

    @property
    def truth_path(self) -> Path:
        return self.validation_folder / "truth.json.gz"

    def detections(self) -> list[dict[str, Any]]:
        """The run's detections in COCO's results format."""
        return read_json_gz(self.detections_path)

    def classes(self) -> list[dict[str, Any]]:
        """What a classification took each image for: `image_id`, `label`, and the `top` guesses."""
        return read_json_gz(self.folder / CLASSES_FILE)

    def truth(self) -> dict[str, Any]:
        """The COCO instances that the detections are scored against."""
        try:
            return read_json_gz(self.truth_path)
        except StorageError as error:
            raise StorageError(f"{error}; {TRUTH_REMEDY}") from error

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations during training, by step: `step` and `metrics`."""
        return read_evaluations(self.folder)

    def curve(self) -> list[dict[str, float]]:
        """The logged steps of training: step, learning rate and losses."""
        return _read_lines(self.folder / "curve.jsonl")


def detections_path(folder: Path) -> Path:
    """Where the run of this folder keeps its detections."""
    return folder / DETECTIONS_FILE


def latency_path(folder: Path) -> Path:
    """Where the latency of this folder's variant is kept, once for all seeds."""
    return folder.parent / "latency.json"


def receptive_field_path(folder: Path) -> Path:
    """Where the receptive field of this folder's variant is kept."""
    return folder.parent / "receptive_field.json"


def evaluations_path(folder: Path) -> Path:
    """Where the run of this folder keeps its evaluations during training, a line each."""
    return folder / "evaluations.jsonl"


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run during its training, by step; none where it made none."""
    return _read_lines(evaluations_path(folder))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line, without what a kill or a full disk has left of a line."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    read = []
    for line in lines:
        with suppress(ValueError):
            read.append(json.loads(line))
    return read


def validation_folder(runs: Path, fingerprint: str) -> Path:
    return runs / f"val-{fingerprint}"


def run_folder(runs: Path, variant: str, digest: str, seed: int) -> Path:
    """The folder of one run; raises RecordError when the variant's name is no safe folder name."""
    if not _SAFE_NAME.fullmatch(variant):
        raise RecordError(
            f"variant {variant!r} cannot name a folder: use letters, digits and . _ = , + - only"
        )
    return runs / f"{variant}-{digest}" / f"seed{seed}"


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `record.json` in one step; raises RecordError if another run's record lies there."""
    if record.status not in STATUSES:
        raise RecordError(f"status {record.status!r} is none of {', '.join(STATUSES)}")
    path = folder / "record.json"
    if path.exists():
        there = read_record(path)
        if (there.digest, there.seed) != (record.digest, record.seed):
            raise RecordError(
                f"{path} holds digest {there.digest} seed {there.seed}, not {record.digest} seed "
                f"{record.seed}: choose another runs folder or move that one away"
            )
    write_json(path, asdict(record))


def read_record(path: Path) -> RunRecord:
    """Read one record.json; raises RecordError that names the file, the field and the remedy."""
    content = _read_object(path)
    folder_digest = content.get("digest")
    if content.get("schema") == 1:
        content = schema_1.record_of_today(content)
    known = {f.name for f in fields(RunRecord)}
    required = {"variant", "seed", "digest", "status", "config"}
    if unknown := sorted(set(content) - known):
        raise RecordError(f"{path}: unknown field {unknown[0]!r}")
    if missing := sorted(required - set(content)):
        raise RecordError(f"{path}: field {missing[0]!r} is missing")
    try:
        record = msgspec.convert(content, RunRecord)
    except msgspec.ValidationError as error:
        raise RecordError(
            f"{path}: {error}; move it away and the same command trains it anew"
        ) from error
    if record.schema != SCHEMA:
        raise RecordError(
            f"{path}: schema {record.schema}, this version reads 1 and {SCHEMA}: use the version "
            "of this project that wrote it"
        )
    if problem := _problem(record, path.parent, folder_digest):
        raise RecordError(f"{path}: {problem}; move it away and the same command trains it anew")
    return record


def _problem(record: RunRecord, folder: Path, folder_digest: Any) -> str | None:
    """Why a record cannot be believed; None where it can."""
    if record.status not in STATUSES:
        return f"status {record.status!r} is none of {', '.join(STATUSES)}"
    if record.config.get("seed", record.seed) != record.seed:
        return f"seed is {record.seed}, but {record.config['seed']} in its config"
    if record.status == "done" and not record.metrics:
        return "status is 'done', but there are no metrics"
    if problem := next(_impossible_numbers(record), None):
        return problem
    named = _RUN_FOLDER.fullmatch(folder.parent.name)
    if named and folder.name.startswith("seed"):
        if folder.name != f"seed{record.seed}":
            return f"seed {record.seed} lies in folder {folder.name}"
        # a run of schema 1 that was written again keeps its folder, whose digest is shorter
        if named["digest"] != folder_digest and len(named["digest"]) == len(str(folder_digest)):
            return f"digest {folder_digest} lies in folder {folder.parent.name}"
    return None


def _impossible_numbers(record: RunRecord) -> Iterator[str]:
    """Scores that are no fractions, where -1 is COCO's word for none, and counts below 0."""
    parts = ("metrics", "cells", "data", "cost", "timing")
    for where, value in _numbers({part: getattr(record, part) for part in parts}):
        part, name = where.partition(".")[0], where.rpartition(".")[2]
        if part == "metrics" or (part == "cells" and name in _FRACTIONS):
            if not 0 <= value <= 1 and value != -1:
                yield f"{where} is {value}: a fraction is from 0 to 1"
        elif value < 0 and name != "id":
            yield _below_0(where, value)


def _below_0(where: str, value: float) -> str:
    return f"{where} is {value}: a count is not below 0"


def _numbers(content: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number, with the fields that lead to it; elements of a list share their list's."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _numbers(value, f"{where}.{name}" if where else name)
    elif isinstance(content, list):
        for value in content:
            yield from _numbers(value, where)
    elif isinstance(content, int | float):
        yield where, content


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; name the folder of a run") from None
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path}: not readable ({error}); move it away and the same command makes it anew"
        ) from error
    if not isinstance(content, dict):
        raise RecordError(f"{path}: not a JSON object; move it away")
    return content


def read_runs(runs: Path, faults: list[str] | None = None) -> list[Run]:
    """All runs under a runs folder, sorted by folder; raises RecordError where there is none.

    A file that cannot be read is named in `faults` and left out; without a list it is raised.
    """
    if not runs.is_dir():
        raise RecordError(f"{runs}: no such folder; name the folder that holds the runs")
    found = []
    latencies, reaches = (
        _read_measured(runs, name, faults) for name in ("latency.json", "receptive_field.json")
    )
    for path in sorted(runs.glob("*/seed*/record.json")):
        if not path.parent.name.removeprefix("seed").isdigit():
            continue  # what `retire` put away
        try:
            latency = latencies.get(latency_path(path.parent), {})
            receptive_field = reaches.get(receptive_field_path(path.parent), {})
            found.append(Run(path.parent, read_record(path), latency, receptive_field))
        except RecordError as error:
            if faults is None:
                raise
            faults.append(str(error))
    return found


def _read_measured(runs: Path, name: str, faults: list[str] | None) -> dict[Path, dict[str, Any]]:
    """What was measured of variants after training, by file."""
    found = {}
    for path in sorted(runs.glob(f"*/{name}")):
        try:
            content = _read_object(path)
            for where, value in _numbers(content):
                if value < 0:
                    raise RecordError(
                        f"{path}: {_below_0(where, value)}; move it away and the same command "
                        "makes it anew"
                    )
            found[path] = content
        except RecordError as error:
            if faults is None:
                raise
            faults.append(str(error))
    return found


class RunFolders:
    """The variants' folders in a runs folder, listed once: to find a run asks for its own alone."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._by_digest: dict[str, list[Path]] = {}
        for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
            if named := _RUN_FOLDER.fullmatch(folder.name):
                self._by_digest.setdefault(named["digest"], []).append(folder)

    def find(self, digest: str, seed: int) -> Path | None:
        """The folder of a run that was begun before, under whatever name; None without one."""
        for folder in (*self._by_digest.get(digest, ()), *self._of_schema_1.get(digest, ())):
            if (folder / f"seed{seed}" / "record.json").exists():
                return folder / f"seed{seed}"
        return None

    @cached_property
    def _of_schema_1(self) -> dict[str, list[Path]]:
        """By the digest of today."""
        found: dict[str, list[Path]] = {}
        for written, folders in self._by_digest.items():
            for folder in folders if len(written) == schema_1.DIGEST_LENGTH else ():
                for path in sorted(folder.glob("seed*/record.json")):
                    try:
                        found.setdefault(read_record(path).digest, []).append(folder)
                    except RecordError:
                        continue  # told where runs are listed
        return found


def retire(folder: Path) -> Path:
    """Put a run's files away beside it, so that it can be trained anew and nothing is lost."""
    version = read_record(folder / "record.json").results_version
    number, retired = 1, folder.with_name(f"{folder.name}-results{version}")
    while retired.exists():
        number += 1
        retired = folder.with_name(f"{folder.name}-results{version}-{number}")
    retired.mkdir()
    for path in folder.iterdir():
        if path.name != ".lock":
            path.rename(retired / path.name)
    return retired


def write_table(
    runs: Path,
    name: str,
    variants: list[dict[str, str]],
    baseline: str,
    published: str | None = None,
) -> None:
    """Note which variants (`{"variant", "digest"}`) a table compares, in the table's order.

    `published` names the paper's table that it repeats. The same table on other data, or under
    another protocol, is another file.
    """
    content = {
        "schema": SCHEMA,
        "name": name,
        "baseline": baseline,
        "variants": variants,
        "published": published,
    }
    write_json(runs / f"table-{name}-{digest(variants)}.json", content)


def write_sweep(runs: Path, planned: list[dict[str, Any]]) -> None:
    """Note the runs (`{"variant", "digest", "seed"}`) of a sweep, for those who watch it."""
    content = {"schema": SCHEMA, "runs": planned}
    write_json(runs / f"sweep-{digest(planned)}.json", content)


def read_sweeps(runs: Path, faults: list[str]) -> list[dict[str, Any]]:
    """The runs that the sweeps noted in a runs folder planned, each once.

    A note that cannot be read is named in `faults` and left out.
    """
    planned: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(runs.glob("sweep-*.json")):
        try:
            for run in _read_object(path)["runs"]:
                planned.setdefault((run["digest"], run["seed"]), run)
        except RecordError as error:
            faults.append(str(error))
        except (LookupError, TypeError):
            faults.append(f"{path}: is no note of a sweep; move it away")
    return list(planned.values())


def read_tables(runs: Path, faults: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """The tables noted in a runs folder: name -> baseline and variants in order.

    Where a name was noted more than once, the file's digest tells them apart. A note that cannot
    be read is named in `faults` and left out; without a list it is raised as RecordError.
    """
    contents = {}
    for path in sorted(runs.glob("table-*.json")):
        try:
            contents[path] = _read_table(path)
        except RecordError as error:
            if faults is None:
                raise
            faults.append(str(error))
    names = [content["name"] for content in contents.values()]
    for path, content in contents.items():
        if names.count(content["name"]) > 1:
            content["name"] = path.stem.removeprefix("table-")
    return {content["name"]: content for content in contents.values()}


def _read_table(path: Path) -> dict[str, Any]:
    content = _read_object(path)
    if missing := sorted({"name", "baseline", "variants"} - set(content)):
        raise RecordError(f"{path}: field {missing[0]!r} is missing; move it away")
    if content.get("schema") == 1:
        for variant in content["variants"]:
            variant["digest"] = _digest_of_today(path.parent, variant["digest"])
    return content


def _digest_of_today(runs: Path, former: str) -> str:
    for path in sorted(runs.glob(f"*-{former}/seed*/record.json")):
        try:
            return read_record(path).digest
        except RecordError:
            continue  # told where runs are listed
    return former
