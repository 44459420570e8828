"""Compile the kernels whenever the project is installed or a wheel of it is made."""

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from detnet_kernels.build import build, compiler


class KernelsHook(BuildHookInterface):
    def dependencies(self) -> list[str]:
        return [] if compiler() else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = build()
        build_data["force_include"][str(library)] = f"detnet_kernels/{library.name}"
        # Any Python 3 will do: the library knows none.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
