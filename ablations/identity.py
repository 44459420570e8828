"""What a run computes, as a short name that outlasts versions of this project.

A run is named by its config's differences from the defaults, as they were when each field was
introduced. A new field with a neutral default therefore leaves every name as it was; a field whose
default changes keeps the old one under `introduced_as` in its metadata.
"""

import hashlib
import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

NO_RESULT: dict[str, Any] = {"decides_result": False}
"""Metadata of a field that names or limits something else that is in the digest already."""


def digest(value: Any) -> str:
    """Sixteen hex digits that name a JSON value; equal for equal content in any order of keys.

    Raises ValueError for a number that is not finite.
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that decide a result and differ from their introduced defaults.

    Dataclasses inside, and inside mappings, are treated alike; fields without a default always
    stand.
    """
    found = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if each.metadata.get("decides_result", True) and value != introduced_default(each):
            found[each.name] = _plain(value)
    return found


def introduced_default(field: "Field[Any]") -> Any:
    """A field's default when it was introduced; `MISSING` where it has none."""
    if "introduced_as" in field.metadata:
        return field.metadata["introduced_as"]
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return differences(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
