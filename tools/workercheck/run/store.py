"""Executed pages with their evidence, in a folder for each environment.

A kept run holds under another path and on another machine: files of the project are named by where
they are from their page.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from workercheck.evidence import records as ev
from workercheck.run import seal, sources
from workercheck.run.page import SKIP_EXECUTION, Page
from workercheck.run.side_by_side import Run

KEPT_FOR = 30 * 86400.0
"""Seconds that what nobody uses stays."""

KEPT_ENVIRONMENTS = 3
"""How many of the environments used last stay however long ago that was."""

_SECONDS = "seconds"
"""The folder with a file for each page: stores are merged by copying files."""
_KEY = re.compile("[0-9a-f]{16}")
"""The name of an environment's folder."""
_MADE_BY_RUN = ("language_info", "widgets")
"""The notebook's metadata that a run adds."""


_OUTPUTS: Mapping[str, Mapping[str, type]] = {
    "stream": {"name": str, "text": str},
    "error": {"ename": str, "evalue": str, "traceback": list},
    "display_data": {"data": dict, "metadata": dict},
    "execute_result": {"data": dict, "metadata": dict},
}
"""What each kind of output has, by `output_type`."""


class WrongShapeError(Exception):
    """A file of the store does not hold what one of its name holds."""


class PageCache:
    """Runs of pages with their evidence, one file each, and how long pages took.

    A file is written beside its place and moved into it, under a seal. So builds may share a
    folder, and be killed: a run is there as it was written, or not.

    Parameters
    ----------
    folder
        Where the caches of all environments are. Made when it is needed.
    key
        The environment's key, the name of the folder within it.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.path = folder / key
        self.damaged: list[str] = []
        """The pages whose run was there and could not be read, by docname."""
        self.unsigned: list[str] = []
        """The pages whose run was there, but not signed with the key of this build, by docname."""
        self.lost: list[str] = []
        """The pages whose run could not be kept, by docname."""
        self.why_lost = ""

    def load(self, page: Page) -> Run | None:
        """Return the page's run, None without a good one.

        Runs of a kernel in another environment than ours do not count: nothing tells what is
        installed there.
        """
        if page.force or _native_kernel(page.kernel_name) is None:
            return None
        path = self._path_of(page)
        try:
            run = _decode(page, seal.unseal(self._name_of(path), _read(path)))
        except FileNotFoundError:
            return None
        except seal.UnsignedError:
            self.unsigned.append(page.docname)
            return None
        except Exception:  # whatever is in the file, it is no run of this page
            self.damaged.append(page.docname)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return run if sources.unchanged(run.sources) else None

    def store(self, run: Run) -> None:
        """Keep a run that passed, unless nobody knows on what it depends."""
        if run.sources is None or _native_kernel(run.page.kernel_name) is None:
            return
        try:
            path = self._path_of(run.page)
            write(path, seal.seal(self._name_of(path), _encode(run)))
        except OSError as exc:
            self.lost.append(run.page.docname)
            self.why_lost = f"{self.path}: {exc.strerror}"

    def seconds(self) -> dict[str, float]:
        """Return how long each page took when it last ran, in whatever environment."""
        found = {}
        for path in _entries(self.folder / _SECONDS):
            with contextlib.suppress(OSError, WrongShapeError):  # they only order the pages
                docname, spent = read_seconds(_read(path))
                found[docname] = spent
        return found

    def remember_seconds(self, spent: dict[str, float]) -> None:
        """Add to what `seconds` returns."""
        for docname, seconds in spent.items():
            name = hashlib.sha256(os.fsencode(docname)).hexdigest()[:16]
            text = json.dumps({"docname": docname, "seconds": seconds})
            with contextlib.suppress(OSError):
                write(self.folder / _SECONDS / f"{name}.json", text.encode())

    def prune(self) -> None:
        """Remove what nobody has used for long, the last few environments excepted.

        A build that goes on has used its folder since it began.
        """
        with contextlib.suppress(OSError):
            self.path.mkdir(parents=True, exist_ok=True)
            os.utime(self.path)
        before = time.time() - KEPT_FOR
        environments = sorted(
            (path for path in _entries(self.folder) if _KEY.fullmatch(path.name)),
            key=_used,
            reverse=True,
        )
        for path in environments[KEPT_ENVIRONMENTS:]:
            if _used(path) < before:
                shutil.rmtree(path, ignore_errors=True)
        for path in [*_entries(self.path), *_entries(self.folder / _SECONDS)]:
            if _used(path) < before:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path_of(self, page: Page) -> Path:
        # Neither tags nor text: the judge applies the tags of today to the evidence of then.
        kernel = _native_kernel(page.kernel_name)
        parts = [
            page.kernel_name,
            [kernel.argv[1:], kernel.env] if kernel is not None else None,
            page.docname.rpartition("/")[0],
            page.in_temp,
            [(cell.source, SKIP_EXECUTION in cell.tags) for cell in page.cells],
        ]
        return self.path / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.run"

    def _name_of(self, path: Path) -> str:
        """Return under which name a run is signed."""
        return path.relative_to(self.folder).as_posix()


def _encode(run: Run) -> bytes:
    metadata = run.notebook.metadata
    kept = {
        "seconds": run.seconds,
        "sources": _from(run.page.path.parent, run.sources or {}),
        "events": [ev.dumps(event) for event in run.events],
        "metadata": {name: metadata[name] for name in _MADE_BY_RUN if name in metadata},
        "cells": [
            {
                name: run.notebook.cells[cell.position][name]
                for name in ("execution_count", "outputs")
            }
            for cell in run.page.cells
        ],
    }
    return json.dumps(kept).encode()


def _decode(page: Page, body: bytes) -> Run:
    """Return a run under the page as it is now; an exception of any kind if it is none."""
    kept = nbformat.from_dict(read_run(body))
    notebook = copy.deepcopy(page.notebook)
    notebook.metadata.update(kept.metadata)
    for cell, outcome in zip(page.cells, kept.cells, strict=True):
        notebook.cells[cell.position].update(outcome)
    events = [ev.parse(line) for line in kept.events]
    return Run(page, notebook, events, kept.seconds, _below(page.path.parent, kept.sources))


def read_run(body: bytes) -> dict[str, Any]:
    """Return what a file of a run holds, without its seal.

    Raises
    ------
    WrongShapeError
        If that is no run.
    """
    try:
        kept: dict[str, Any] = json.loads(body)
        texts = [*kept["sources"], *kept["sources"].values(), *kept["events"], *kept["metadata"]]
        is_run = (
            is_duration(kept["seconds"])
            and all(isinstance(text, str) for text in texts)
            and all(
                isinstance(cell["execution_count"], int | None)
                and all(_is_output(output) for output in cell["outputs"])
                for cell in kept["cells"]
            )
        )
    except Exception as exc:
        raise WrongShapeError from exc
    if not is_run:
        raise WrongShapeError
    return kept


def read_seconds(content: bytes) -> tuple[str, float]:
    """Return the page of a file of times, and how long it took.

    Raises
    ------
    WrongShapeError
        If that is not what the file holds.
    """
    try:
        kept = json.loads(content)
        docname, spent = kept["docname"], kept["seconds"]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise WrongShapeError from exc
    if not isinstance(docname, str) or not is_duration(spent):
        raise WrongShapeError
    return docname, float(spent)


def is_duration(value: object) -> bool:
    """Tell whether a value, of whatever type, is a number of seconds that Python can wait."""
    longest = threading.TIMEOUT_MAX
    return type(value) in (int, float) and 0 <= value <= longest  # type: ignore[operator]


def _is_output(output: Mapping[str, object]) -> bool:
    """Tell whether a renderer will find what it looks for in an output."""
    kinds = _OUTPUTS.get(str(output["output_type"]))
    return kinds is not None and all(isinstance(output[name], kinds[name]) for name in kinds)


def _from(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Name files by where they are from a folder."""
    return {Path(os.path.relpath(path, folder)).as_posix(): known for path, known in files.items()}


def _below(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Name files absolutely that were named by where they are from a folder."""
    # Not resolved: ``..`` leads where it led when the name was made.
    return {os.path.normpath(folder / path): known for path, known in files.items()}


def _read(path: Path) -> bytes:
    """Read a file, without waiting for the other end of a pipe."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()  # gone meanwhile


@functools.cache
def _native_kernel(name: str) -> KernelSpec | None:
    """Return how a kernel is started, None where that is none of this interpreter."""
    try:
        spec = KernelSpecManager().get_kernel_spec(name)
    except NoSuchKernel:
        return None
    # jupyter_client runs "python" as sys.executable.
    is_native = bool(spec.argv) and spec.argv[0] in (
        "python",
        f"python{sys.version_info[0]}",
        f"python{sys.version_info[0]}.{sys.version_info[1]}",
        sys.executable,
    )
    return spec if is_native else None
