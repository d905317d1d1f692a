"""Environments of locked packages, with this project installed as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT

sys.path.append(str(ROOT / "tools"))

import bootstrap
import find_python


def make(folder: Path, lock: str, python: str = "3.14") -> Path:
    """Make an environment of what ``requirements/LOCK.txt`` names, and return its folder."""
    interpreter = str(find_python.find(python))
    subprocess.run(
        [bootstrap.tool("uv"), "venv", "--quiet", "--python", interpreter, str(folder)], check=True
    )
    install(folder, "--require-hashes", "--requirement", str(ROOT / "requirements" / f"{lock}.txt"))
    install(folder, "--no-deps", "--no-build-isolation", str(ROOT))
    return folder


def install(environment: Path, *arguments: str) -> None:
    """Install packages into an environment."""
    pip = [bootstrap.tool("uv"), "pip", "install", "--quiet", "--python", str(environment)]
    subprocess.run([*pip, *arguments], check=True)
