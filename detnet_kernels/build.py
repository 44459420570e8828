"""Compile the kernels into the library that `loader` loads.

    python -m detnet_kernels.build

Installing the project does this. A source tree that is used without being installed needs it once,
and again when the sources have changed: the library is named after them.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

FLAGS = (
    "-std=c11",
    "-O3",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    # The same bits on every processor: a product and a sum are rounded apart.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)

NO_COMPILER = (
    "the kernels are written in C, and there is no compiler: install one (gcc, or clang), "
    "or `pip install ziglang`, which brings one"
)


def library_path() -> Path:
    """Where the library of these sources and this platform lies once it is built."""
    digest = hashlib.sha256(repr(FLAGS).encode())
    for path in sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")]):
        digest.update(path.read_bytes())
    return FOLDER / f"kernels-{sysconfig.get_platform()}-{digest.hexdigest()[:12]}.so"


def compiler() -> list[str] | None:
    """The command of a C compiler: $CC, or one that is installed; None where there is none."""
    if chosen := os.environ.get("CC"):
        return shlex.split(chosen)
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build() -> Path:
    """Compile what is not compiled yet, and remove the libraries of earlier sources.

    Raises FileNotFoundError where there is no compiler, RuntimeError where it fails, and OSError
    where the library cannot be written.
    """
    path = library_path()
    if path.exists():
        return path
    command = compiler() or [sys.executable, "-m", "ziglang", "cc"]
    sources = [str(source) for source in sorted(FOLDER.glob("*.c"))]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        built = Path(folder) / path.name  # moved when whole: others may be waiting for it
        done = subprocess.run(
            [*command, *FLAGS, *sources, "-o", str(built), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if "No module named ziglang" in done.stderr:
            raise FileNotFoundError(NO_COMPILER)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} did not compile the kernels:\n{done.stderr}")
        built.replace(path)
    for other in FOLDER.glob(f"kernels-{sysconfig.get_platform()}-*.so"):
        if other != path:
            other.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    try:
        print(build())
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
