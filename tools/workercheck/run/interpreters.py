"""Which Python a process is.

The binary does not tell: that of a virtual environment is a link to another one's. The path under
which it was called does.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

_PYTHON = re.compile(r"(?:python|pypy)w?[0-9.]*[dt]*(?:\.exe)?", re.IGNORECASE)
_NO_CODE = ("--version", "--help", "--help-all", "--help-env", "--help-xoptions")


def is_python(executable: str) -> bool:
    """Tell whether a program is a Python interpreter, by the name of its file."""
    return _PYTHON.fullmatch(Path(os.path.realpath(executable)).name) is not None


def path_of(word: str, *, cwd: str, path: str | None = None) -> str | None:
    """Return the path of a program, None where there is none.

    Parameters
    ----------
    word
        The first word of the command.
    cwd
        The folder in which it was called.
    path
        The ``PATH`` in which a bare name is looked up, None for that of this process.
    """
    if not word or "\0" in word:
        return None
    if os.path.dirname(word):  # noqa: PTH120, a Path would drop the dot of ./python
        found = os.path.join(cwd, word)  # noqa: PTH118
        return found if os.path.isfile(found) else None  # noqa: PTH113
    return shutil.which(word, path=path)


def environment_of(executable: str) -> str:
    """Return the folder of the environment to which an interpreter belongs.

    Parameters
    ----------
    executable
        The path under which it is called. Empty, or what can be none, belongs to no environment.
    """
    if not executable or "\0" in executable:
        return ""
    folder = os.path.dirname(os.path.abspath(executable))  # noqa: PTH100, PTH120
    try:
        for above in (folder, os.path.dirname(folder)):  # noqa: PTH120
            if os.path.isfile(os.path.join(above, "pyvenv.cfg")):  # noqa: PTH113, PTH118
                return os.path.realpath(above)
        return str(Path(os.path.realpath(executable)).parent.parent)
    except ValueError:  # no file can have such a name
        return ""


def runs_code(argv: Sequence[str]) -> bool:
    """Tell whether an interpreter called like that runs any code, and not only shows its version.

    Parameters
    ----------
    argv
        The words of its command.
    """
    return not any(option in (*_NO_CODE, "V", "h", "?") for option, _ in _options(argv))


def runs_site(argv: Sequence[str]) -> bool:
    """Tell whether an interpreter called like that processes the ``.pth`` files of its folders.

    Parameters
    ----------
    argv
        The words of its command.
    """
    return not any(option in ("S", "s", "I") for option, _ in _options(argv))


def program(argv: Sequence[str]) -> str:
    """Return what a command runs, in words that can be published: arguments may hold a secret.

    Parameters
    ----------
    argv
        The words of the command.

    Returns
    -------
    str
        ``sleep``, ``python script.py``, ``python -m package.module`` or ``python -c``.
    """
    name = Path(argv[0]).name if argv else ""
    if not _PYTHON.fullmatch(name):
        return name
    for option, value in _options(argv):
        if option == "c":
            return f"{name} -c"
        if option == "m":
            return f"{name} -m {value}"
        if not option:
            return f"{name} {Path(value).name or value}"
    return name


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of an interpreter with their values, then its script under no name.

    Source: https://docs.python.org/3/using/cmdline.html
    """
    words = iter(argv[1:])
    for word in words:
        if word == "-" or not word.startswith("-"):
            yield "", word
            return
        if word.startswith("--"):
            yield word, ""
            continue
        for position, letter in enumerate(word[1:], 2):
            if letter not in "cmWX":
                yield letter, ""
                continue
            yield letter, word[position:] or next(words, "")
            if letter in "cm":
                return
            break
