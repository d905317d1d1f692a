"""Which Python a process is.

The binary does not tell: that of a virtual environment is a link to another one's. The path under
which it was called does.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
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
    words = iter(argv[1:])
    for word in words:
        if word in _NO_CODE:
            return False
        if not word.startswith("-") or word == "-":
            return True
        if word.startswith("--"):
            continue
        for position, letter in enumerate(word[1:], 2):
            if letter in "Vh?":
                return False
            if letter in "cm":
                return True
            if letter in "WX":  # the rest of the word is its value, or else the next word
                if position == len(word):
                    next(words, None)
                break
    return True


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
    words = iter(argv[1:])
    for word in words:
        if not word.startswith("-"):
            return f"{name} {Path(word).name}"
        for position, letter in enumerate(word[1:], 2):
            if word.startswith("--"):
                break
            value = word[position:]
            if letter == "c":
                return f"{name} -c"
            if letter == "m":
                return f"{name} -m {value or next(words, '')}"
            if letter in "WX":
                if not value:
                    next(words, None)
                break
    return name
