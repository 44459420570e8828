"""What only some systems have is not needed to import anything."""

import subprocess
import sys

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
