"""Imports inside workercheck point one way: from the fronts down to the recorder."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

PACKAGE = ROOT / "tools" / "workercheck"
FLOORS = ("libraries", "recorder", "evidence", "judge", "lint", "run", "report", "fronts")
"""From the ground up: a room may import its own floor and those below."""


def imports(path: Path) -> set[str]:
    """Return the rooms of workercheck that the import statements of a module name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("workercheck.")}
    return found & set(FLOORS)


def upward(package: Path) -> list[str]:
    """Return each import that points from a floor to a higher one."""
    return [
        f"{path.relative_to(package)} imports {room}"
        for floor, name in enumerate(FLOORS)
        for path in [*package.glob(f"{name}.py"), *(package / name).rglob("*.py")]
        for room in sorted(imports(path))
        if FLOORS.index(room) > floor
    ]


def test_no_import_points_upward():
    assert [] == upward(PACKAGE)


def test_an_import_that_points_upward_is_seen(tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "rules.py").write_text("from workercheck.report import record\n")
    assert ["judge/rules.py imports report"] == upward(tmp_path)


def test_verdicts_need_nothing_but_the_standard_library():
    """`-S`: nothing that is installed can be imported."""
    code = "import workercheck.judge.rules, workercheck.report.gate"
    subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(PACKAGE.parent)}, check=True
    )
