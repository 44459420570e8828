from collections.abc import Iterator
from types import ModuleType

import pytest
from benchmark_scripts import imported


@pytest.fixture(scope="session")
def waits() -> Iterator[ModuleType]:
    """The benchmark's count of what would make the host wait for a GPU."""
    with imported("waits") as module:
        yield module
