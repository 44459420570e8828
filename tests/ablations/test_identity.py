"""What names a run: differences from the defaults, so that names outlast versions."""

import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from ablations.config import run_digest
from ablations.identity import NO_RESULT, differences, digest
from ablations.sweep.compose import config_folder, run_config

GOLDEN = json.loads(Path(__file__).with_name("digests.json").read_text())
DATA = {"train_fingerprint": "t" * 16, "val_fingerprint": "v" * 16}


@dataclass(kw_only=True)
class Inner:
    depth: int
    dilation: int = 1


@dataclass(kw_only=True)
class Spec:
    width: int = 64
    rates: list[float] = field(default_factory=lambda: [0.5])
    parts: dict[str, Inner] = field(default_factory=dict)
    name: str = field(default="", metadata=NO_RESULT)


def digest_of(overrides: str) -> str:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return run_digest(run_config(compose("config", overrides=overrides.split())), DATA)


def test_only_what_differs_from_the_defaults_counts():
    assert differences(Spec()) == {}
    assert differences(Spec(width=64, rates=[0.5], name="x")) == {}
    assert differences(Spec(width=32)) == {"width": 32}
    assert differences(Spec(rates=[0.5, 1.0])) == {"rates": [0.5, 1.0]}


def test_a_field_without_a_default_always_counts_also_inside():
    parts = {"c2": Inner(depth=3), "c3": Inner(depth=3, dilation=2)}
    assert differences(Spec(parts=parts)) == {
        "parts": {"c2": {"depth": 3}, "c3": {"depth": 3, "dilation": 2}}
    }


def test_a_new_field_with_a_neutral_default_leaves_names_as_they_are():
    newer = make_dataclass(
        "Newer", [("momentum", float, field(default=0.9, kw_only=True))], bases=(Spec,)
    )
    assert differences(newer(width=32)) == differences(Spec(width=32))
    assert differences(newer(momentum=0.8)) == {"momentum": 0.8}


def test_a_changed_default_keeps_the_names_of_old_values():
    @dataclass
    class Today:
        threshold: float = field(default=0.01, metadata={"introduced_as": 0.05})

    assert differences(Today(0.05)) == {}
    assert differences(Today()) == {"threshold": 0.01}


def test_a_new_field_of_a_real_detector_changes_no_digest(monkeypatch):
    from detnet.detection import DETECTORS

    overrides = "detector=retinanet"
    before = digest_of(overrides)
    newer = make_dataclass(
        "NewerSpec",
        [("centerness", bool, field(default=False, kw_only=True))],
        bases=(DETECTORS["retinanet"],),
        kw_only=True,
        slots=True,
    )
    monkeypatch.setitem(DETECTORS, "retinanet", newer)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = run_config(compose("config", overrides=[overrides]))
    config.detector = newer(**{name: getattr(config.detector, name) for name in before_fields()})
    assert run_digest(config, DATA) == before


def before_fields() -> list[str]:
    from dataclasses import fields

    from detnet.detection.retinanet import RetinaNetSpec

    return [each.name for each in fields(RetinaNetSpec)]


@pytest.mark.parametrize("overrides", GOLDEN["digests"])
def test_the_digests_of_a_dozen_runs_stand(overrides):
    """A change here makes every finished run of its kind "missing": CHANGELOG must say why."""
    assert digest_of(overrides) == GOLDEN["digests"][overrides], GOLDEN["why"]


def test_equal_content_has_one_digest_of_sixteen_digits():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len(digest({})) == 16
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("inf"))
