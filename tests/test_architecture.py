"""Imports inside workercheck point one way, and are those that the page on its rooms shows."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

PACKAGE = ROOT / "tools" / "workercheck"
PAGE = ROOT / "docs" / "source" / "checking" / "architecture.md"
ROW = re.compile(r"^\| `(\w+)` \|.*\|([^|]*)\|$", re.MULTILINE)
ROOMS = {room: set(re.findall(r"`(\w+)`", names)) for room, names in ROW.findall(PAGE.read_text())}
"""What each room imports, as the page says: from the top down."""
FLOORS = tuple(reversed(ROOMS))
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


def modules(package: Path, room: str) -> list[Path]:
    return [*package.glob(f"{room}.py"), *(package / room).rglob("*.py")]


def upward(package: Path) -> list[str]:
    """Return each import that points from a floor to a higher one."""
    return [
        f"{path.relative_to(package)} imports {room}"
        for floor, name in enumerate(FLOORS)
        for path in modules(package, name)
        for room in sorted(imports(path))
        if FLOORS.index(room) > floor
    ]


def untold(package: Path) -> dict[str, set[str]]:
    """Return, for each room, the imports that only the page has, or only the code."""
    found = {room: set().union(*map(imports, modules(package, room))) - {room} for room in ROOMS}
    return {room: told ^ found[room] for room, told in ROOMS.items() if told != found[room]}


def test_page_has_every_room_and_its_imports():
    rooms = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert set(ROOMS) == rooms - {"py"}
    assert {} == untold(PACKAGE)


def test_no_import_points_upward():
    assert [] == upward(PACKAGE)


def test_an_import_that_points_upward_or_is_not_on_the_page_is_seen(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "copy")
    module = tmp_path / "copy" / "judge" / "rules.py"
    module.write_text(module.read_text() + "from workercheck.report import record\n")
    assert ["judge/rules.py imports report"] == upward(tmp_path / "copy")
    assert {"judge": {"report"}} == untold(tmp_path / "copy")


def test_verdicts_need_nothing_but_the_standard_library():
    """`-S`: nothing that is installed can be imported."""
    code = "import workercheck.judge.rules, workercheck.report.gate"
    subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(PACKAGE.parent)}, check=True
    )
