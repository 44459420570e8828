import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "waits.py"


@pytest.fixture(scope="session")
def waits() -> ModuleType:
    """The benchmark's count of what would make the host wait for a GPU."""
    spec = importlib.util.spec_from_file_location("waits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
