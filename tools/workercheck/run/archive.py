"""A store as one file: written from a folder, and taken into another one after a check."""

from __future__ import annotations

import dataclasses as dc
import re
import zipfile
import zlib
from pathlib import Path

from workercheck.run import seal, store

_RUN = re.compile(r"[0-9a-f]{16}/[0-9a-f]{32}\.run")
_SECONDS = re.compile(r"seconds/[0-9a-f]{16}\.json")


@dc.dataclass(slots=True)
class Taken:
    """What became of the files of an archive."""

    runs: int = 0
    """How many runs are in the store now."""
    refused: dict[str, str] = dc.field(default_factory=dict)
    """Why a file is not taken, by its name in the archive."""


def write(folder: Path, file: Path) -> int:
    """Write a store into one file, whole or not at all; return how many runs it has.

    Raises
    ------
    OSError
        If the store cannot be read, or the file not be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
    runs = [name for name in names if _RUN.fullmatch(name)]
    beside = file.with_name(f"{file.name}.part")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in [*runs, *filter(_SECONDS.fullmatch, names)]:
                # Not `write`: an age before 1980 is none that a zip file knows.
                archive.writestr(name, (folder / name).read_bytes())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return len(runs)


def take(file: Path, folder: Path) -> Taken:
    """Add what is in a file to a store: what is a run as it was written, and the pages' times.

    Raises
    ------
    OSError
        If the file cannot be read, or the store not be written.
    zipfile.BadZipFile
        If the file is no archive.
    """
    taken = Taken()
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            try:
                content = archive.read(name)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
                taken.refused[name] = "damaged"
                continue
            if why := _why_not(name, content):
                taken.refused[name] = why
                continue
            store.write(folder / name, content)
            taken.runs += _RUN.fullmatch(name) is not None
    return taken


def _why_not(name: str, content: bytes) -> str:
    """Say why a file must not come into a store, empty where it may."""
    try:
        if _RUN.fullmatch(name):
            store.read_run(seal.unseal(name, content))
        elif _SECONDS.fullmatch(name):
            store.read_seconds(content)
        else:
            return "no file of a store"
    except seal.DamagedError:
        return "not as it was written"
    except seal.UnsignedError:
        return f"not signed with the key in {seal.KEY}"
    except store.WrongShapeError:
        return "its content has another shape"
    return ""
