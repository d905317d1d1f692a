"""Environments that tests install into, with this project as its users have it."""

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
    empty(folder, find_python.find(python))
    install(folder, "--require-hashes", "--requirement", ROOT / "requirements" / f"{lock}.txt")
    install(folder, "--no-deps", "--no-build-isolation", ROOT)
    return folder


def empty(folder: Path, python: str | Path) -> None:
    """Make an environment with nothing in it."""
    command = [bootstrap.tool("uv"), "venv", "--quiet", "--python", python, folder]
    subprocess.run(command, check=True)


def install(environment: Path, *arguments: str | Path) -> None:
    """Install packages into an environment."""
    pip = [bootstrap.tool("uv"), "pip", "install", "--quiet", "--python", environment]
    subprocess.run([*pip, *arguments], check=True)
