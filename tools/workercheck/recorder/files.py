"""Tell which files of the project a process runs: modules as they are loaded, and scripts.

A file is told when it begins to run, not at the end of the process, so that a worker that dies
by a signal has told as well, and a module that the page removes from `sys.modules` is known all
the same. What is installed is not told: it is part of the environment's key.

Only the standard library is imported, and as little of it as possible: this runs at the start
of every interpreter. Nothing here may raise.
"""

import os
import sys

from workercheck.recorder import events

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

# Kept from before a test suite or a page can replace them.
_stat, _abspath, _dirname, _SEP = os.stat, os.path.abspath, os.path.dirname, os.sep
_open, _read, _close = os.open, os.read, os.close
_TEXT_LIMIT = 65_536  # bytes
_told: "set[str]" = set()
_installed: "tuple[str, ...]" = ()


def start() -> None:
    """Tell the script that this interpreter runs, if it runs one."""
    global _installed
    site: Any = sys.modules.get("site")
    folders = [_dirname(os.__file__), _dirname(sys.executable or "")]
    if site is not None:
        # Python 3.11 to 3.13 run the start-up files of an environment before they note its folder.
        prefixes = [sys.prefix, sys.exec_prefix, *site.PREFIXES]
        folders += [*site.getsitepackages(prefixes), site.getusersitepackages()]
    _installed = tuple([folder + _SEP for folder in folders if folder])
    for module in list(sys.modules.values()):  # what another start-up file has imported before
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        if origin is not None:
            _tell(origin)
    script = sys.argv[0] if sys.argv else ""
    if script[:1] not in ("", "-") and os.path.isfile(script):
        _tell(script)


def loaders() -> "Iterator[tuple[Any, str]]":
    """Return the functions through which modules are loaded: what has each, and its name."""
    external: Any = sys.modules["_frozen_importlib_external"]
    yield sys.modules["_frozen_importlib"], "_load_unlocked"
    # A page may load a module by hand, and run it with `runpy`, which gets its code in the same
    # way.
    yield external.SourceLoader, "get_code"
    yield external.SourcelessFileLoader, "get_code"
    yield external.ExtensionFileLoader, "create_module"


def begins(frame: "FrameType", _: object = None) -> None:
    """Tell the file that a function of `loaders`, or one that runs scripts, is about to run."""
    try:
        here = frame.f_locals
        path = here.get("fname")
        if path is None:
            spec = here.get("spec")
            path = spec.origin if spec is not None else here["self"].path
        if path is not None and path not in _told:
            _tell(os.fspath(path))
    except Exception as exc:
        events.failed("the files that run", exc)


def _tell(path: "Any") -> None:
    _told.add(path)
    # "built-in" and "frozen" are no files.
    if type(path) is not str or path.startswith(_installed) or path in ("built-in", "frozen"):
        return
    path = _abspath(path)
    size = modified = -1
    written = None
    while len(path) > 1:
        try:
            status = _stat(path)
        except NotADirectoryError:
            path = _dirname(path)  # a module in an archive
            continue
        except OSError:
            break
        size, modified = status.st_size, status.st_mtime_ns
        written = _written(path, status)
        break
    events.write("file-ran", path=events.text(path), size=size, modified=modified, written=written)


def _written(path: str, status: os.stat_result) -> "str | None":
    """Return the text of a file that was written during the run, None where that is none."""
    try:
        begin = _stat(events.folder + "/" + events.INTACT).st_mtime_ns
        if status.st_ctime_ns < begin or status.st_size > _TEXT_LIMIT:
            return None
        fd = _open(path, os.O_RDONLY)
        try:
            return _read(fd, _TEXT_LIMIT).decode()
        finally:
            _close(fd)
    except (OSError, ValueError):
        return None
