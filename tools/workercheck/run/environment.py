"""The environment of a build: the interpreter, and what is installed there, by content.

Its key is the same on another machine and under another path, as long as the same would run.
"""

from __future__ import annotations

import base64
import dataclasses as dc
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import site
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import workercheck

_NAME = re.compile(r"^Name:[ \t]*(\S+)", re.MULTILINE)
_VERSION = re.compile(r"^Version:[ \t]*(\S+)", re.MULTILINE)

_EXTENDS_PATH = re.compile(r"[^/]*\.(pth|egg-link)|__editable__[^/]*\.py")
"""Files that extend the import path, with the absolute paths of editable installs in them."""

_ABSOLUTE = re.compile(
    r"""(?<=['"]) (?:/|[A-Za-z]:[/\\]) [^'"\n]* (?=['"]) | ^ (?:/|[A-Za-z]:[/\\]) .*""",
    re.MULTILINE | re.VERBOSE,
)


@dc.dataclass(frozen=True, slots=True)
class Environment:
    """What a page's outputs depend on, besides the page and what it runs of its project."""

    python: str
    start_method: str
    """The default start method of `multiprocessing`."""
    packages: dict[str, str]
    """Every installed distribution, with its version."""
    key: str
    """Hash over all of it, the platform and the content of what is installed: 16 hex digits."""


def environment(base: Path) -> Environment:
    """Describe the interpreter that runs this, which is the one that native kernels run in.

    Parameters
    ----------
    base
        The folder of the pages. Folders from which modules of the project are imported count
        by where they are from there.
    """
    packages = _packages()
    own = Path(workercheck.__file__).parent
    pythonpath = os.environ.get("PYTHONPATH", "")
    start_method = multiprocessing.get_all_start_methods()[0]
    parts = [
        platform.python_implementation(),
        sys.version if sys.version_info.releaselevel != "final" else platform.python_version(),
        getattr(sys, "abiflags", ""),
        sys.platform,
        platform.machine(),
        # Not the kernel of the operating system: the same would run under another one.
        platform.libc_ver(),
        start_method,
        sorted(packages.items()),
        [_relative(path, base) for path in filter(None, pythonpath.split(os.pathsep))],
        [sorted(_content(folder, base)) for folder in _sites()],
        # Also where it is not installed, but linked to.
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(own.rglob("*.py"))],
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return Environment(platform.python_version(), start_method, packages, key)


def _packages() -> dict[str, str]:
    packages: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # Parsing all of it would take ten times as long.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name, version = _NAME.search(text), _VERSION.search(text)
        if name is not None and version is not None:
            # What comes first on the path is what is imported.
            packages.setdefault(name[1].lower().replace("_", "-"), version[1])
    return dict(sorted(packages.items()))


def _sites() -> list[str]:
    folders = [*site.getsitepackages(), *([site.USER_SITE] if site.ENABLE_USER_SITE else [])]
    return [folder for folder in dict.fromkeys(folders) if folder and Path(folder).is_dir()]


def _content(folder: str, base: Path) -> Iterator[str]:
    """Describe each file of a folder of installed packages.

    A file that is as old and as large as its distribution recorded it has the recorded hash; to
    hash all files would take seconds. One that was changed since is hashed, and so is one that
    nobody recorded: its age would be another one on another machine.
    """
    recorded = _recorded(folder)
    for name, path, status in _files(folder):
        known = recorded.get(name)
        if known is not None and known[1] == status.st_size and status.st_mtime <= known[2]:
            yield known[0]
        elif _EXTENDS_PATH.fullmatch(name):
            text = Path(path).read_text("utf-8", "replace")
            yield f"{name},{_ABSOLUTE.sub(lambda match: _relative(match[0], base), text)}"
        else:
            digest = hashlib.sha256(Path(path).read_bytes()).digest()
            yield f"{name},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def _recorded(folder: str) -> dict[str, tuple[str, int, float]]:
    """Return of each recorded file its name with its hash, its size, and when it was installed."""
    found = {}
    for record in Path(folder).glob("*.dist-info/RECORD"):
        try:
            installed, text = record.stat().st_mtime, record.read_text("utf-8", "replace")
        except OSError:
            continue  # uninstalled meanwhile
        for line in text.splitlines():
            name, _, size = line.rpartition(",")
            file, _, digest = name.rpartition(",")
            if size.isdecimal() and not _EXTENDS_PATH.fullmatch(file):
                if '"' in file:
                    file = file.strip('"').replace('""', '"')
                found[file] = f"{file},{digest}", int(size), installed
    return found


def _files(folder: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Return of each file below a folder its name, as ``RECORD`` has it, its path and status."""
    below = [""]
    for within in below:
        try:
            entries = list(os.scandir(f"{folder}/{within}"))
        except OSError:
            continue
        for entry in entries:
            name = within + entry.name
            try:
                # At the top, a link to a folder is a package in development.
                if entry.is_dir(follow_symlinks=not within):
                    if entry.name != "__pycache__":
                        below.append(name + "/")
                elif _is_content(name) and stat.S_ISREG((status := entry.stat()).st_mode):
                    yield name, entry.path, status
            except OSError:
                continue  # gone meanwhile, or a link to nothing


def _is_content(name: str) -> bool:
    """Tell whether a file is what was installed; the others tell how, when and from where."""
    folder, _, file = name.rpartition("/")
    if folder.endswith((".dist-info", ".egg-info")):
        return file in ("METADATA", "PKG-INFO", "entry_points.txt")
    return not file.endswith(".pyc") and not folder.endswith(".dist-info/licenses")


def _relative(path: str, base: Path) -> str:
    """Return where a folder is from the pages, in words that hold on every machine."""
    try:
        return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(base))).as_posix()
    except ValueError:  # another drive, or what no file can be called
        return path
