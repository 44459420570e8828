"""From conf/ and the command line to a checked RunConfig: where Hydra meets the dataclasses.

The backbone group is the zoo itself, so an architecture stands in one place only.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

import detnet
from ablations.config import DATA, ConfigError, RunConfig, TimmBackbone
from detnet.detection import DETECTORS


def register() -> None:
    """Put the schemas and the zoo where Hydra's defaults lists find them."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name, spec in detnet.ZOO.items():
        store.store(group="backbone", name=name, node=spec)
    store.store(group="backbone", name="timm", node=TimmBackbone)
    for group, types in (("detector", DETECTORS), ("data", DATA)):
        for name, schema in types.items():
            store.store(group=f"schema/{group}", name=name, node=schema)


def config_folder() -> Path:
    """conf/ beside the packages in a checkout, inside this one when installed."""
    here = Path(__file__).resolve().parents[1]
    installed = here / "conf"
    return installed if installed.is_dir() else here.parent / "conf"


def run_config(composed: DictConfig) -> RunConfig:
    """The composed configuration as checked dataclasses; raises ValueError that names the field."""
    plain = OmegaConf.create({key: composed._get_node(key) for key in RunConfig.__slots__})
    if missing := OmegaConf.missing_keys(plain):
        raise ConfigError(f"{min(missing)} is not set: give {min(missing)}=...")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    assert isinstance(config, RunConfig)
    config.check()
    return config


def variant_name(config: RunConfig, backbone_choice: str, overrides: Sequence[str]) -> str:
    """The run's name in tables: the one given, or the backbone's with what was overridden."""
    if config.variant is not None:
        return config.variant
    name = config.backbone.name if backbone_choice == "timm" else backbone_choice
    changes = [short_name(override) for override in overrides if names_variant(override)]
    return ",".join([name, *changes])


def names_variant(override: str) -> bool:
    """Whether an override makes another variant: the backbone's words, the detector, weights."""
    return re.match(r"[+~]*(backbone\.(?!name=)|detector[.=]|weights=)", override) is not None


def short_name(override: str) -> str:
    """An override as part of a variant's name: safe in a folder name, without its group."""
    text = re.sub(r"^([+~]*)(backbone\.(stages\.)?|detector\.)", r"\1", override)
    text = re.sub(r"^[+]+", "", re.sub(r"^~", "no-", text))
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", Path(text).name if "weights=" in text else text)


register()
