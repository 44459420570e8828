"""What only some systems have is not needed to import anything."""

import platform
import subprocess
import sys

import pytest
from commands import ROOT, environment
from test_architecture import imports

UNIX_ONLY = ("fcntl", "resource", "pwd", "grp", "termios")


def test_nothing_is_imported_at_start_that_windows_lacks():
    for package in ("detnet", "ablations", "analysis", "hydra_plugins"):
        for path in (ROOT / package).rglob("*.py"):
            assert not imports(path, at_start_only=True) & set(UNIX_ONLY), path


def test_records_are_read_and_compared_without_what_windows_lacks():
    code = (
        "import sys\n"
        f"for name in {UNIX_ONLY}: sys.modules[name] = None\n"
        "import ablations.record, analysis, analysis.compare, analysis.report\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_peak_memory_is_bytes_on_every_system(monkeypatch):
    import types

    import torch

    from ablations import runtime

    kibibytes = types.SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=1000)
    )
    monkeypatch.setitem(sys.modules, "resource", kibibytes)
    monkeypatch.setattr(runtime, "Path", lambda _: (_ for _ in ()).throw(OSError))
    cpu = runtime.Runtime(torch.device("cpu"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cpu.peak_memory() == 1000 * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cpu.peak_memory() == 1000
    monkeypatch.setitem(sys.modules, "resource", None)
    assert cpu.peak_memory() is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks the C library glibc")
def test_memory_that_a_training_frees_is_not_fetched_again():
    code = (
        "import resource, torch\n"
        "from ablations.runtime import keep_freed_memory\n"
        "keep_freed_memory(torch.device('cpu'))\n"
        "num_faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3):\n"
        "    before = num_faults()\n"
        "    bytes(1) * (100 * 2**20)\n"
        "    print(num_faults() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *later = map(int, done.stdout.split())
    assert first > 20_000  # pages of 4 KiB
    assert max(later) < 100
