"""What users of Hydra are used to write, and how this project has it."""

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.conf import HydraConf

from ablations.field_checks import ConfigError, nearest

_NOT_INSTALLED = "it is not installed: pip install 'detnet-ablations[{}]'"
NO_SUCH_FILE = {
    "hydra/launcher/joblib": _NOT_INSTALLED.format("launchers"),
    "hydra/launcher/submitit_local": _NOT_INSTALLED.format("launchers"),
    "hydra/launcher/submitit_slurm": _NOT_INSTALLED.format("launchers"),
    "hydra/launcher/ray": _NOT_INSTALLED.format("ray"),
}
"""What to do where Hydra finds no file of this group and choice."""

_GROUPS = ("backbone", "data", "detector", "protocol", "table", "task")
_HOME = re.compile(r"(?<=[=,\[])~(/[^,'\"\]]*)?(?=[,\]]|$)")
_IGNORED = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


def understood(words: Iterable[str]) -> list[str]:
    """The words of a command line as Hydra takes them; raises ConfigError for what says nothing.

    `table=NAME` is `+table=NAME`: no run needs a table, so Hydra's defaults have none. `~/FOLDER`
    is quoted: Hydra's grammar has no such value.
    """
    given = list(words)
    for word in given:
        _refuse_senseless(*word.lstrip("+").partition("=")[::2])
        if word.startswith("+hydra."):
            _refuse_unknown_of_hydra(word.partition("=")[0])
    swept = next((w for w in given if re.match(r"\+*table=[^{\[]*,", w)), None)
    of_one = next((w for w in given if w.lstrip("+").startswith("table.")), None)
    if swept is not None and of_one is not None:
        raise ConfigError(
            f"{of_one}: is of one table, {swept.lstrip('+')} are several: run the command for each"
        )
    quoted = [_HOME.sub(r"'\g<0>'", word) for word in given]
    return [f"+{word}" if word.startswith("table=") else word for word in quoted]


def _refuse_unknown_of_hydra(key: str) -> None:
    """Hydra appends to its own configuration, too, whatever is written with a plus."""
    schema: Any = HydraConf
    for name in key.split(".")[1:]:
        if not is_dataclass(schema):
            return
        known = {each.name: each.type for each in fields(schema)}
        if name not in known:
            raise ConfigError(f"{key}: no such field; {nearest(name, known)}")
        schema = known[name]


def _refuse_senseless(key: str, value: str) -> None:
    if key in _IGNORED:
        raise ConfigError(
            f"{key}: a run's folder is named by what the run computes, below job.runs: give "
            "job.runs=FOLDER"
        )
    if key == "table" and value.startswith("{"):
        raise ConfigError(
            "table={...}: a table is a file: write table/NAME.yaml into a folder and give "
            "--config-dir FOLDER table=NAME"
        )
    if key in _GROUPS and re.fullmatch(r"null|true|false|[-+]?[\d.]+", value, re.IGNORECASE):
        raise ConfigError(f"{key}={value}: give the name of a choice, see --help")
