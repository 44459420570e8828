"""Who may import whom: detnet <- ablations <- nobody; analysis reads records and match tables."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "detnet": ["hydra", "omegaconf", "pandas", "matplotlib", "ablations", "analysis"],
    "detnet/spec.py": ["torch", "timm"],
    "ablations": ["analysis"],
    "ablations/engine.py": ["hydra"],
    "ablations/config.py": ["hydra"],
    "ablations/data": ["hydra"],
    "ablations/models.py": ["hydra"],
    "ablations/record.py": ["torch", "numpy", "hydra", "omegaconf", "timm"],
    "ablations/matching.py": ["torch", "hydra", "omegaconf"],
    "ablations/score.py": ["torch", "hydra", "omegaconf"],
    "analysis": ["torch", "hydra", "omegaconf", "timm", "detnet"],
}
ANALYSIS_MAY_READ = {"record", "matching", "score", "truth", "kernel", "rle"}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports; relative imports are made absolute."""
    package = path.relative_to(ROOT).parent.parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_analysis_reads_records_and_match_tables_only():
    for path in files("analysis"):
        for name in imports(path):
            if name.startswith("ablations."):
                assert name.split(".")[1] in ANALYSIS_MAY_READ, f"{path}: {name}"


def test_what_analysis_reads_needs_no_torch():
    for module in ANALYSIS_MAY_READ:
        for name in imports(ROOT / "ablations" / f"{module}.py"):
            assert name.split(".")[0] not in ("torch", "hydra", "timm"), f"{module}: {name}"
            if name.startswith("ablations."):
                assert name.split(".")[1] in ANALYSIS_MAY_READ, f"{module}: {name}"
