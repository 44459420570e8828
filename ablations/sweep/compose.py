"""From conf/ and the command line to a checked RunConfig: where Hydra meets the dataclasses.

The backbone group is the zoo itself, so an architecture stands in one place only.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import detnet
from ablations.config import DATA, ConfigError, RunConfig, TimmBackbone
from detnet.detection import DETECTORS


def register() -> None:
    """Put the schema, the zoo, detectors and data where Hydra's defaults lists find them."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name, spec in detnet.ZOO.items():
        store.store(group="backbone", name=name, node=spec)
    store.store(group="backbone", name="timm", node=TimmBackbone)
    for group, types in (("detector", DETECTORS), ("data", DATA)):
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
    _refuse_unknown(composed)
    plain = OmegaConf.create({key: composed._get_node(key) for key in RunConfig.__slots__})
    if missing := OmegaConf.missing_keys(plain):
        raise ConfigError(f"{min(missing)} is not set: give {min(missing)}=...")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    assert isinstance(config, RunConfig)
    return config


def _refuse_unknown(composed: DictConfig) -> None:
    known = list(RunConfig.__slots__)
    for key in map(str, composed):
        if key not in [*known, "hydra"]:
            raise ConfigError(f"+{key}: no such field; {nearest(key, known)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or all that there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def plain_reason(error: BaseException) -> str:
    """What Hydra and OmegaConf say of a wrong configuration, in a line or two of plain words."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.key is not None:
        known = getattr(cause.object_type, "__slots__", None) or getattr(
            cause.object_type, "__dataclass_fields__", ()
        )
        hint = f"; {nearest(str(cause.key), known)}" if known else ""
        return f"{cause.full_key or cause.key}: no such field{hint}"
    reason = str(error)
    if isinstance(cause, OmegaConfBaseException) and cause is not error:
        lines = str(cause).splitlines()
        reason += f" ({lines[0]})"
    return reason


register()
