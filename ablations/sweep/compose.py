"""From conf/ and the command line to a checked RunConfig: where Hydra meets the dataclasses.

The backbone group is the zoo itself, so an architecture stands in one place only.
"""

import os
import traceback
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import detnet
from ablations.config import PROTOCOLS, RunConfig, TimmBackbone
from ablations.data import CLASS_DATA, DATA
from ablations.field_checks import ConfigError, nearest
from ablations.sweep.habits import NO_SUCH_FILE
from detnet.detection import DETECTORS

REFUSALS = (HydraException, OmegaConfBaseException, ValueError, OSError)
"""What a wrong command line, config, data set or folder raises: told in a line, no traceback."""
MAX_LINE = 1000
"""Characters of a message's line; a value may be longer than anybody reads."""


def register() -> None:
    """Put the schema, the zoo, detectors and data where Hydra's defaults lists find them."""
    OmegaConf.register_new_resolver("expanduser", os.path.expanduser, replace=True)
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name, spec in detnet.ZOO.items():
        store.store(group="backbone", name=name, node=spec)
    store.store(group="backbone", name="timm", node=TimmBackbone)
    groups = {"detector": DETECTORS, "data": DATA | CLASS_DATA, "protocol": PROTOCOLS}
    for group, types in groups.items():
        for name, each in types.items():
            store.store(group=f"schema/{group}", name=name, node=each)


def config_folder() -> Path:
    """conf/ beside the packages in a checkout, inside this one when installed."""
    here = Path(__file__).resolve().parents[1]
    installed = here / "conf"
    return installed if installed.is_dir() else here.parent / "conf"


def run_config(composed: DictConfig) -> RunConfig:
    """The composed configuration as checked dataclasses; raises ConfigError naming the field."""
    config = as_run_config(composed)
    config.check()
    return config


def as_run_config(composed: DictConfig) -> RunConfig:
    """The composed configuration as dataclasses, values unchecked; raises ConfigError."""
    nodes = {str(key): composed._get_node(key) for key in composed if key != "hydra"}
    _refuse_unknown(nodes, RunConfig)
    if left_out := [key for key in RunConfig.__slots__ if key not in nodes]:
        raise ConfigError(f"~{left_out[0]}: cannot be deleted; leave the word out, or give a value")
    plain = OmegaConf.create({key: nodes[key] for key in RunConfig.__slots__})
    if missing := OmegaConf.missing_keys(plain):
        raise ConfigError(f"{min(missing)} is not set: give {min(missing)}=...")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    assert isinstance(config, RunConfig)
    return config


def _refuse_unknown(nodes: Mapping[str, Any], schema: Any, path: str = "") -> None:
    """Hydra appends any key that is written with a plus; a typo would then change nothing."""
    known = [each.name for each in fields(schema)] if is_dataclass(schema) else list(nodes)
    for key, node in nodes.items():
        if key not in known:
            raise ConfigError(f"+{path}{key}: no such field; {nearest(key, known)}")
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
            inside = {str(name): node._get_node(name) for name in node}
            _refuse_unknown(inside, OmegaConf.get_type(node), f"{path}{key}.")


def plain_reason(error: BaseException) -> str:
    """What Hydra and OmegaConf say of a wrong configuration, in a line or two of plain words."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file in NO_SUCH_FILE:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}: {NO_SUCH_FILE[error.missing_cfg_file]}"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = sorted(error.options)
        return f"{group}={choice}: no such choice; {nearest(choice, options)}"
    if isinstance(error, ConfigCompositionException) and "In 'protocol/" in str(error):
        return _reason_of_protocol(error)
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.key is not None:
        known = getattr(cause.object_type, "__dataclass_fields__", ())
        hint = f"; {nearest(str(cause.key), known)}" if known else ""
        return f"{cause.full_key or cause.key}: no such field{hint}"
    reason = str(error)
    if isinstance(cause, OmegaConfBaseException) and cause is not error:
        reason += f" ({str(cause).splitlines()[0]})"
        if "is not a subclass of StageSpec" in reason:
            reason += ": a stage is added with '+backbone.stages={c7:{depth:3,width:256}}'"
    elif isinstance(cause, OmegaConfBaseException) and cause.full_key:
        reason = f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if not isinstance(error, REFUSALS):
        reason = (
            f"the configuration cannot be composed ({type(error).__name__}: {reason}): look for a "
            "value given to a part that is not there, such as table.baseline=x without +table=NAME"
        )
    return "\n".join(map(_cut, reason.splitlines()))


def is_refusal(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf refused the configuration, in their own words or by a crash."""
    if isinstance(error, REFUSALS):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return any(package in Path(last.filename).parts for package in ("hydra", "omegaconf"))


def _reason_of_protocol(error: ConfigCompositionException) -> str:
    """A protocol's file has a field that the task's protocols do not have."""
    name = str(error).partition("In 'protocol/")[2].partition("'")[0]
    reason = str(error).splitlines()[1].strip()
    return f"protocol={name}: {reason}: name a protocol of this task, or correct the file"


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}... ({len(line)} characters)"


register()
