"""What only some systems have is not needed to import anything."""

import subprocess
import sys

from commands import ROOT, environment

IMPORTED = (
    "detnet, detnet.detection, analysis, analysis.compare, analysis.report, ablations.record, "
    "ablations.train, ablations.plan, ablations.rescore"
)


def test_everything_imports_without_what_windows_lacks():
    code = (
        "import sys\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        f"import {IMPORTED}\n"
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
