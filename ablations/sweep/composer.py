"""Compose the many points of a sweep without composing each anew.

Hydra reads and merges every file for every point. Most points of a sweep share their choices of
files and differ in values, which are merged into a copy of what the choices gave.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_VALUES_AT_THE_TOP = ("seed", "weights", "variant")
"""Keys without a dot that are no choices of a file."""


@dataclass(frozen=True)
class Composed:
    """A point's configuration: its values without Hydra's own, and the choices of its groups."""

    values: DictConfig
    choices: Mapping[str, Any]
    has_interpolation: bool
    """Whether a value is made of another one, such as the seed."""


class Composer:
    """Composes overrides as Hydra does; `master` is the configuration of the whole sweep."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], Composed] = {}

    def parse(self, words: Sequence[str]) -> list[Override]:
        """Hydra's reading of overrides."""
        if new := [word for word in words if word not in self._parsed]:
            self._parsed |= zip(new, self._parser.parse_overrides(new), strict=True)
        return [self._parsed[word] for word in words]

    def compose(self, words: Sequence[str]) -> Composed:
        """The configuration of these overrides; raises HydraException."""
        values, chosen_files = list[Override](), list[Override]()
        for each in self.parse(words):
            (values if _sets_a_value(each) else chosen_files).append(each)
        if any(isinstance(each.value(), dict) for each in chosen_files):
            return self._compose(words)  # a mapping in a group's place: its order counts
        choices = tuple(str(each.input_line) for each in chosen_files)
        if choices not in self._composed:
            self._composed[choices] = self._compose(choices)
        chosen = self._composed[choices]
        merged = copy.deepcopy(chosen.values)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(values, merged)
        except OmegaConfBaseException as error:  # as Hydra's loader tells it
            raise ConfigCompositionException().with_traceback(error.__traceback__) from error
        return Composed(
            merged,
            chosen.choices,
            chosen.has_interpolation or any("${" in str(each.input_line) for each in values),
        )

    def _compose(self, words: Sequence[str]) -> Composed:
        composed = self.loader.load_sweep_config(self.master, list(words))
        keys = [str(key) for key in composed if key != "hydra"]
        values = OmegaConf.masked_copy(composed, keys)
        OmegaConf.set_struct(values, True)
        OmegaConf.copy_cache(from_config=self.master, to_config=values)
        choices = {str(group): choice for group, choice in composed.hydra.runtime.choices.items()}
        return Composed(values, choices, any(_interpolations(values)))


def _sets_a_value(override: Override) -> bool:
    key = override.key_or_group
    is_value = "." in key or key in _VALUES_AT_THE_TOP
    return is_value and override.package is None and "/" not in key and not key.startswith("hydra.")


def _interpolations(node: Any) -> Iterator[bool]:
    keys: Any = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_interpolation(node, key):
            yield True
        elif not OmegaConf.is_missing(node, key) and OmegaConf.is_config(inner := node[key]):
            yield from _interpolations(inner)
