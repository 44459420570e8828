"""DetNet ablations: the jobs that train, evaluate and record backbone variants.

A user may import from here `RunConfig` (what a run is to be), `RunRecord` and `read_runs` (what
runs left) and `RESULTS_VERSION`; they are loaded when asked for, since a config needs torch and a
record does not.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["RESULTS_VERSION", "RunConfig", "RunRecord", "__version__", "read_runs"]

try:
    __version__ = version("detnet-ablations")
except PackageNotFoundError:  # a checkout in the path, not installed
    __version__ = "unknown"

_HOMES = {
    "RESULTS_VERSION": "ablations.record",
    "RunConfig": "ablations.config",
    "RunRecord": "ablations.record",
    "read_runs": "ablations.record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
