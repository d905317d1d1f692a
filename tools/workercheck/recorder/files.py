"""Tell which files of the project a process runs, reads and writes.

A file is told when it begins to run or is opened, not at the end of the process, so that a worker
that dies by a signal has told as well, and a module that the page removes from `sys.modules` is
known all the same. What is installed is not told: it is part of the environment's key.

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
_abspath, _dirname, _SEP = os.path.abspath, os.path.dirname, os.sep
_realpath, _islink = os.path.realpath, os.path.islink
_TOUCHES = frozenset(("open", "os.rename", "os.remove"))
"""The audit events that are looked at."""
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
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
        origin = _origin(module)
        if type(origin) is str:
            _tell(origin)
    project = _project()
    if project:
        _watch_touches(project)
    script = sys.argv[0] if sys.argv else ""
    if script[:1] not in ("", "-") and events.is_file(script):
        _tell(script)


def _origin(module: "Any") -> "Any":
    """Return what a module was loaded from; one that is to be executed when it is used, is not."""
    try:
        spec = object.__getattribute__(module, "__dict__").get("__spec__")
    except AttributeError:  # anything may be in `sys.modules`
        return None
    return getattr(spec, "origin", None)


def _project() -> str:
    """Return the folder whose files a run depends on, empty where nobody keeps the run."""
    try:
        fd = os.open(events.folder + "/" + events.INTACT, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.fsdecode(os.read(fd, 10_000))
    finally:
        os.close(fd)


def _watch_touches(project: str) -> None:
    """Tell the files of the project that this process reads, and those that it writes or removes.

    What is installed, hidden, or Python's own bytecode is no file of the project.
    """
    project = project.rstrip(_SEP) + _SEP
    prefix = sys.prefix + _SEP
    others = (*_installed, prefix) if prefix.startswith(project) else _installed
    evidence = events.folder + "/" + events.EVENTS
    folder = _realpath(events.folder)
    read: set[str] = set()
    written: set[str] = set()

    def reads(path: str) -> None:
        if path in read:
            return
        read.add(path)
        path = _realpath(path)
        inner = path[len(project) :]
        if (
            path.startswith(project)
            and not path.startswith(others)
            and _SEP + "." not in _SEP + inner
            and events.is_file(path)
        ):
            status = events.Kept.stat(path)
            events.write(
                "file-read",
                path=events.text(path),
                size=status.st_size,
                modified=status.st_mtime_ns,
            )

    def writes(path: str) -> None:
        if path in written:
            return
        written.add(path)
        path = _realpath(path)
        if _dirname(path) != folder:
            events.write("file-written", path=events.text(path))

    def touched(event: str, args: "tuple[Any, ...]") -> None:
        if event not in _TOUCHES:
            return
        try:
            path = args[0]
            if path == evidence or type(path) is int:
                return
            path = os.fsdecode(path)
            if ".pyc" in path:
                return
            path = _abspath(path)
            if event == "open":
                access = args[2] & _ACCESS
                is_new = args[2] & (os.O_TRUNC | os.O_EXCL)
                if access != os.O_WRONLY and not is_new:
                    reads(path)
                # What is only added to can be read by nobody through this opening, and stays a file
                # of the project for whoever reads it later.
                if access == os.O_RDWR or (access and (is_new or not events.is_file(path))):
                    writes(path)
            elif event == "os.rename":
                reads(path)
                writes(_abspath(os.fsdecode(args[1])))
            elif args[1] == -1 and not _islink(path):  # -1: the path is relative to no open folder
                writes(path)
        except (OSError, ValueError, IndexError):
            pass  # no path at all, or one in a folder that is gone
        except Exception:  # the page has replaced what this needs
            events.write("file-read", path="", size=-1, modified=-1)

    sys.addaudithook(touched)


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
        if hasattr(path, "__fspath__"):
            path = os.fspath(path)
        # The origin of a module is whatever its finder calls it.
        if type(path) is str and path not in _told:
            _tell(path)
    except Exception as exc:
        events.failed("the files that run", exc)


def _tell(path: str) -> None:
    _told.add(path)
    # "built-in" and "frozen" are no files.
    if path.startswith(_installed) or path in ("built-in", "frozen"):
        return
    path = _abspath(path)
    size = modified = -1
    while len(path) > 1:
        try:
            status = events.Kept.stat(path)
        except NotADirectoryError:
            path = _dirname(path)  # a module in an archive
            continue
        except OSError:
            break
        size, modified = status.st_size, status.st_mtime_ns
        break
    events.write("file-ran", path=events.text(path), size=size, modified=modified)
