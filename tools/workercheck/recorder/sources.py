"""The file and the line of the reader's code, as the reader knows them.

What the interpreter knows code by is not always its file: a script has the path with which it was
called, an example in a docstring a name that `doctest` made, the text under a magic of IPython a
name that the magic made, a cell of a program one that its host made. Looked up once for each place.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import os
import re
import sys
import weakref

from workercheck.recorder import directives, events

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

DOCTEST = "<doctest "
"""The beginning of the file name of an example of `doctest`."""

_TIMED = "<timed exec>"
_LONGEST = 20_000
"""Characters of a text that a tool runs, up to which it is told."""
_NEAREST = 8
"""Functions behind a text that a tool runs among which its own is looked for."""
_EXAMPLE = re.compile(r"<doctest .*\[(\d+)\]>")
_OF_DOCSTRING = ":docstring of "
"""What stands between a file and an object in the name of a source that Sphinx made of both."""
_docstrings: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""By a block of examples of Sphinx: the name of the object whose docstring has it."""
_SETUP = ("testsetup", "testcleanup")

# Kept from before a test suite or a page can replace them.
_isabs, _join = os.path.isabs, os.path.join
_basename = os.path.basename
try:
    _cwd = os.getcwd()
except OSError:  # it was removed
    _cwd = ""


def position(frame: FrameType) -> tuple[str, int, str]:
    """Return the file and the 1-based line at which a frame stands.

    Code that is a part of a page has its text as well: the line is that of its directive.
    """
    file, line, text = frame.f_code.co_filename, frame.f_lineno or 0, ""
    if file.startswith(DOCTEST):
        file, line = _in_docstring(frame) or (file, line)
    elif file.startswith("<"):
        if (at := _in_cell(frame)) is not None:
            file, line = at
        elif (within := directives.line_within(frame)) is not None:
            file, line, text = within
            if not text and (path := _file_of_text(frame)):
                file, line = path, frame.f_lineno or 0
        else:
            text = _of_command(file, line)
    elif not events.is_file(file):
        file, line = _in_program(frame) or (file, line)
    if not _isabs(file) and events.is_file(path := _join(_cwd, file)):
        file = path
    return file, line, text


def whole_text(file: str, frame: FrameType) -> str:
    """Return the text of which a frame's code was made, empty where the code is of a *file*.

    A tool that runs a block of a page has the text at hand: in `linecache`, or in the function that
    runs it.
    """
    if not file.startswith("<"):
        return ""
    try:
        linecache = sys.modules.get("linecache")
        entry = getattr(linecache, "cache", {}).get(frame.f_code.co_filename)
        if entry is not None and len(entry) == 4:
            return "".join(entry[2])[:_LONGEST]
        caller = frame.f_back
        nearest = 0
        while caller is not None and nearest < _NEAREST:
            for value in caller.f_locals.values():
                if type(value) is str and len(value) <= _LONGEST and _has_call(value, frame):
                    return value
            caller, nearest = caller.f_back, nearest + 1
    except Exception:  # a tool keeps what is no text where texts are kept
        pass
    return ""


def _file_of_text(frame: FrameType) -> str:
    """Return the file that a directive runs as a text, empty where none is known to be it.

    The tool that reads the file has its path at hand, and the file has the call in its place.
    """
    caller, nearest = frame.f_back, 0
    while caller is not None and nearest < _NEAREST:
        for value in dict.fromkeys(map(events.path_of, list(caller.f_locals.values()))):
            if _isabs(value) and events.is_file(value):
                try:
                    with open(value, encoding="utf-8") as file:
                        text = file.read(_LONGEST)
                    if _has_call(text, frame):
                        return value
                except Exception:  # no text, or what is no code of Python
                    continue
        caller, nearest = caller.f_back, nearest + 1
    return ""


def _has_call(text: str, frame: FrameType) -> bool:
    """Tell whether a text has a call in the very place in which a frame's code has one now."""
    positions = list(frame.f_code.co_positions())
    line, last, begin, end = positions[frame.f_lasti // 2]
    lines = [known.encode() for known in text.split("\n")]  # columns are counted in bytes
    if not (line and last and end) or begin is None or last > len(lines):
        return False
    before, first, whole = lines[line - 1][:begin], lines[line - 1][begin:], lines[last - 1][:end]
    return (
        not (before[-1:].isalnum() or before.endswith((b"_", b".")))
        and (first[:1].isalpha() or first.startswith(b"_"))
        and len(whole) == end
        and whole.endswith(b")")
    )


def _of_command(file: str, line: int) -> str:
    """Return a line of the text of ``python -c``, empty where it is none."""
    words = sys.orig_argv
    if file != "<string>" or "-c" not in words[:-1]:
        return ""
    lines = words[words.index("-c") + 1].splitlines()
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def _in_cell(frame: FrameType) -> tuple[str, int] | None:
    """Return the position in a cell of text that a magic of IPython runs, ``%%time`` for one."""
    text, caller = None, frame.f_back
    while caller is not None and caller.f_globals is not frame.f_globals:
        if caller.f_code.co_name == "run_cell_magic":
            text = caller.f_locals.get("cell")
        caller = caller.f_back
    if caller is None or caller.f_code.co_filename.startswith("<") or frame.f_back is caller:
        return None
    line = caller.f_lineno or 0
    # Other magics put lines of theirs before.
    if type(text) is str and frame.f_code.co_filename == _TIMED:
        dropped = text[: len(text) - len(text.lstrip())].count("\n")  # by IPython
        line += dropped + (frame.f_lineno or 0)
    return caller.f_code.co_filename, line


def _in_program(frame: FrameType) -> tuple[str, int] | None:
    """Return the position in a program that is run in pieces, each compiled under a made-up name.

    A cell of marimo is one: `linecache` has its text, and its globals name the program.
    """
    linecache = sys.modules.get("linecache")
    entry = getattr(linecache, "cache", {}).get(frame.f_code.co_filename)
    path = frame.f_globals.get("__file__")
    if type(path) is not str or entry is None or len(entry) != 4:
        return None
    piece = [text.strip() for text in entry[2]]
    while piece and not piece[-1]:
        piece.pop()
    try:
        with open(path, encoding="utf-8") as file:
            program = [text.strip() for text in file]
    except (OSError, ValueError):
        return None
    starts = [i for i in range(len(program)) if program[i : i + len(piece)] == piece]
    # Where the text is there twice, either line shows it.
    return (path, starts[0] + (frame.f_lineno or 1)) if piece and starts else None


def block_made(frame: FrameType, _: Any) -> None:
    """Note of which docstring a block of Sphinx is, as its node says: the block does not."""
    caller: Any = frame.f_back
    source = getattr(caller.f_locals.get("node"), "source", None)
    if type(source) is str and _OF_DOCSTRING in source:
        _docstrings[frame.f_locals["self"]] = source.partition(_OF_DOCSTRING)[2]


def _in_docstring(frame: FrameType) -> tuple[str, int] | None:
    """Return the position of an example of `doctest`, which its runner knows."""
    match = _EXAMPLE.match(frame.f_code.co_filename)
    runner: FrameType | None = frame
    # `python -m doctest` runs the module under another name.
    while runner is not None and not (
        _basename(runner.f_code.co_filename) == "doctest.py" and "examplenum" in runner.f_locals
    ):
        runner = runner.f_back
    if runner is None or match is None:
        return None
    test: Any = runner.f_locals.get("test")
    number = int(match[1])
    if type(test.filename) is not str or number >= len(test.examples):
        return None
    # All count from 0: the text in its file, the example in its text.
    example, first = test.examples[number], test.examples[0]
    path, above = test.filename, test.lineno
    block = _block_of_sphinx(runner, number)
    if block is not None:
        # One test has the setup code of several texts, each of them an example.
        first = example if block.type in _SETUP else first
        path, above = _path_of(block, runner), block.lineno
        if above is None and (name := _docstrings.get(block)) is not None:
            above = _begin_of(name)
    found = _first_of(first.source, path, above or 0)
    line = found - (first.lineno or 0) if found is not None else above or 0
    return path, line + (example.lineno or 0) + (frame.f_lineno or 1)


def _block_of_sphinx(runner: FrameType, number: int) -> Any:
    """Return the block of a page that Sphinx has `doctest` run, None where nothing of Sphinx is."""
    caller = runner.f_back
    while caller is not None and caller.f_globals.get("__name__") != "sphinx.ext.doctest":
        caller = caller.f_back
    if caller is None:
        return None
    known = caller.f_locals
    return known["testcodes"][number] if "testcodes" in known else known["code"][0]


def _path_of(block: Any, runner: FrameType) -> str:
    """Return the path of the file with a block, which Sphinx names from the folder of its pages."""
    frame: FrameType | None = runner
    while frame is not None:
        folder = getattr(frame.f_locals.get("self"), "srcdir", None)
        if folder is not None and frame.f_globals.get("__name__") == "sphinx.ext.doctest":
            return os.path.normpath(_join(str(folder), block.filename))
        frame = frame.f_back
    return str(block.filename)


def _begin_of(name: str) -> int:
    """Return the 0-based line at which an object begins, 0 where it has no lines of its own."""
    try:
        module = name
        while module and module not in sys.modules:
            module = module.rpartition(".")[0]
        named: Any = sys.modules[module]
        for part in name[len(module) + 1 :].split("."):
            named = getattr(named, part)
        import inspect  # Sphinx has it

        return inspect.getsourcelines(getattr(named, "fget", named))[1] - 1
    except Exception:  # a module, or an attribute
        return 0


def _first_of(source: str, path: str, above: int) -> int | None:
    """Return the 0-based line of the first example of a text.

    Sphinx counts the lines of its directives from where they begin, not from where their text does.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [_without_prompt(line) for line in file]
    except (OSError, ValueError):
        return None
    wanted = [_without_prompt(line) for line in source.splitlines()]
    # A docstring may have a text in which backslashes are escaped.
    for known in (wanted, wanted[:1]):
        for number in range(above, len(lines) - len(known) + 1):
            if lines[number : number + len(known)] == known:
                return number
    return None


def _without_prompt(line: str) -> str:
    return line.strip().removeprefix(">>>").removeprefix("...").strip()
