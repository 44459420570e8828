"""The floors of the house: who may import whom, and no two modules that import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("detnet", "detnet_kernels", "ablations", "analysis")
FORBIDDEN = {
    "detnet": ["hydra", "omegaconf", "pandas", "matplotlib", "ablations", "analysis"],
    "detnet/spec.py": ["torch", "timm"],
    "detnet_kernels": ["torch", "detnet", "ablations", "analysis"],
    "detnet_kernels/build.py": ["numpy"],
    "ablations": ["analysis"],
    "ablations/config.py": ["hydra"],
    "ablations/run.py": ["hydra"],
    "ablations/data": ["hydra"],
    "ablations/tasks": ["hydra"],
    "ablations/training": ["hydra", "omegaconf"],
    "ablations/record.py": ["torch", "numpy", "hydra", "omegaconf", "timm"],
    "ablations/evaluation": ["torch", "hydra", "omegaconf", "timm"],
    "analysis": ["torch", "hydra", "omegaconf", "timm"],
}
MAY_READ = {
    "analysis": [
        "ablations.record",
        "ablations.storage",
        "ablations.evaluation",
        "ablations.progress",
        "ablations.study.record",
        "detnet.spec",
    ],
    "ablations/evaluation": ["ablations.evaluation"],
    "ablations/data": [
        "ablations.data",
        "ablations.evaluation",
        "ablations.identity",
        "ablations.progress",
        "detnet.detection.batch",
    ],
    "ablations/training": [
        "ablations.training",
        "ablations.tasks.task",
        "ablations.runtime",
        "ablations.config",
        "ablations.classification_protocol",
        "ablations.storage",
        "ablations.progress",
    ],
    "ablations/tasks": [
        "ablations.tasks",
        "ablations.runtime",
        "ablations.config",
        "ablations.field_checks",
        "ablations.classification_protocol",
        "ablations.data",
        "ablations.evaluation",
        "ablations.record",
        "ablations.storage",
        "detnet",
    ],
}
"""What a folder may import of `detnet` and `ablations` beyond itself."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, at_start_only: bool = False) -> set[str]:
    """Dotted names that a file imports; relative imports are made absolute."""
    package = path.relative_to(ROOT).parent.parts
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if at_start_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def files(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert found, place
    return found


@pytest.mark.parametrize("place", FORBIDDEN)
def test_no_file_imports_what_its_floor_must_not_know(place):
    for path in files(place):
        for name in imports(path):
            assert name.split(".")[0] not in FORBIDDEN[place], f"{path}: {name}"


def is_below(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("place", MAY_READ)
def test_a_folder_reads_of_the_floors_below_only_what_it_may(place):
    for path in files(place):
        for name in imports(path):
            if is_below(name, ["ablations", "detnet"]) and name != "ablations":
                assert is_below(name, MAY_READ[place]), f"{path}: {name}"


def needs() -> dict[str, set[str]]:
    """Module -> the modules that it imports when it is imported."""
    paths = [path for package in PACKAGES for path in files(package)]
    modules = {module_of(path): path for path in paths}
    found = {}
    for module, path in modules.items():
        named = imports(path, at_start_only=True) & modules.keys()
        # `from package import module` needs the module, not what else the package exports
        packages = {name.rpartition(".")[0] for name in named}
        found[module] = {name for name in named if name not in packages} - {module}
    return found


def assert_no_circle(needed: dict[str, set[str]]) -> None:
    # what can be imported last, again and again: what is left stands in a circle
    while free := [name for name, needs in needed.items() if not needs & needed.keys()]:
        for name in free:
            del needed[name]
    assert not needed, f"these import each other: {sorted(needed)}"


def test_no_two_modules_import_each_other():
    assert_no_circle(needs())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_rooms_of_a_package_import_each_other(package):
    """A room is a folder, or a file beside it."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    rooms: dict[str, set[str]] = {}
    for module, named in needs().items():
        if module.startswith(f"{package}."):
            inside = {room(name) for name in named if name.startswith(f"{package}.")}
            rooms.setdefault(room(module), set()).update(inside - {room(module)})
    assert rooms
    assert_no_circle(rooms)
