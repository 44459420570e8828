"""What a run leaves behind: one record per run, written atomically, read with the standard library.

A runs folder looks like this; nothing in it carries a time stamp, so the same command finds what
it left before:

    runs/
      table-<name>-<key>.json              the variants of a table, in order, and its baseline
      val-<fingerprint>/truth.json.gz      what detections are scored against (COCO instances)
      val-<fingerprint>/images/<id>.png    a few validation images, for the pictures
      <variant>-<digest>/seed<k>/record.json
                                 curve.jsonl, checkpoint.pt, detections.json.gz
"""

import fcntl
import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA = 1
STATUSES = ("running", "done", "failed")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]*")


class RecordError(ValueError):
    """A record or a run folder is not what it should be; the message names the file."""


@dataclass(kw_only=True)
class RunRecord:
    """Everything a table or a plot needs of one run (variant x seed).

    `metrics` holds fractions under COCO's names, `mask_` before those of masks; an absent cell is
    None. `cells` holds AP and AR of every IoU threshold x area x maxDets, by kind (`bbox`, `segm`).
    """

    variant: str
    seed: int
    digest: str
    status: str
    config: dict[str, Any]
    schema: int = SCHEMA
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    cells: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """A run folder and the record in it."""

    folder: Path
    record: RunRecord

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

    def truth(self) -> dict[str, Any]:
        """The COCO instances that the detections are scored against."""
        return read_json_gz(self.truth_path)

    def curve(self) -> list[dict[str, float]]:
        """The logged steps of training: step, learning rate and losses."""
        path = self.folder / "curve.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]


def detections_path(folder: Path) -> Path:
    """Where the run of this folder keeps its detections."""
    return folder / "detections.json.gz"


def validation_folder(runs: Path, fingerprint: str) -> Path:
    return runs / f"val-{fingerprint}"


def digest(config: Mapping[str, Any]) -> str:
    """Ten hex digits that name what a config computes; equal for equal content in any key order."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def run_folder(runs: Path, variant: str, digest: str, seed: int) -> Path:
    """The folder of one run; raises RecordError when the variant's name is no safe folder name."""
    if not _SAFE_NAME.fullmatch(variant):
        raise RecordError(
            f"variant {variant!r} cannot name a folder: use letters, digits and . _ = , + - only"
        )
    return runs / f"{variant}-{digest}" / f"seed{seed}"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` in one step: a reader, or a kill, sees the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_json_gz(path: Path, value: Any) -> None:
    # mtime 0: the same content is the same file
    write_atomically(path, gzip.compress(json.dumps(value).encode(), compresslevel=6, mtime=0))


def read_json_gz(path: Path) -> Any:
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise RecordError(f"{path}: not readable as gzipped JSON ({error})") from error


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
    """Read one record.json; raises RecordError that names the file and the field."""
    content = _read_object(path)
    known = {f.name for f in fields(RunRecord)}
    required = {"variant", "seed", "digest", "status", "config"}
    if unknown := sorted(set(content) - known):
        raise RecordError(f"{path}: unknown field {unknown[0]!r}")
    if missing := sorted(required - set(content)):
        raise RecordError(f"{path}: field {missing[0]!r} is missing")
    if content["status"] not in STATUSES:
        raise RecordError(f"{path}: status {content['status']!r} is none of {', '.join(STATUSES)}")
    return RunRecord(**content)


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object of this version's schema; raises RecordError that names the file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected a JSON object, this is a {type(content).__name__}")
    if content.get("schema") != SCHEMA:
        raise RecordError(f"{path}: schema {content.get('schema')!r}, this version reads {SCHEMA}")
    return content


def read_runs(runs: Path) -> list[Run]:
    """All runs under a runs folder, sorted by folder; raises RecordError where there is none."""
    if not runs.is_dir():
        raise RecordError(f"{runs}: no such folder; name the folder that holds the runs")
    return [
        Run(path.parent, read_record(path)) for path in sorted(runs.glob("*/seed*/record.json"))
    ]


def write_table(runs: Path, name: str, variants: list[dict[str, str]], baseline: str) -> None:
    """Note which variants (`{"variant", "digest"}`) a table compares, in the table's order.

    The same table on other data, or under another protocol, is another file.
    """
    content = {"schema": SCHEMA, "name": name, "baseline": baseline, "variants": variants}
    key = digest({"variants": variants})[:6]
    write_json(runs / f"table-{name}-{key}.json", content)


def read_tables(runs: Path) -> dict[str, dict[str, Any]]:
    """The tables noted in a runs folder: name -> baseline and variants in order.

    Where a name was noted more than once, the file's key tells them apart.
    """
    contents = {}
    for path in sorted(runs.glob("table-*.json")):
        content = _read_object(path)
        if missing := sorted({"name", "baseline", "variants"} - set(content)):
            raise RecordError(f"{path}: field {missing[0]!r} is missing")
        contents[path] = content
    names = [content["name"] for content in contents.values()]
    for path, content in contents.items():
        if names.count(content["name"]) > 1:
            content["name"] = path.stem.removeprefix("table-")
    return {content["name"]: content for content in contents.values()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; raises RecordError when another process holds it.

    The lock goes with the process, so a killed run leaves none behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecordError(f"{folder}: another process is running this run") from error
        yield
