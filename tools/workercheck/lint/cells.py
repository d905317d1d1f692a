"""A cell or a script, and its syntax tree: every node with the line of the file."""

from __future__ import annotations

import ast
import dataclasses as dc
import re
import warnings
from collections.abc import Iterator, Sequence

from workercheck.judge.steps import (
    EXPECT_WORKER_ERROR,
    RAISES_EXCEPTION,
    Step,
    is_failing_example,
)

SKIP_EXECUTION = "skip-execution"


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Code(Step):
    """A code cell, or a whole script."""

    source: str
    lines: tuple[int, ...]
    """The line of the file for each line of the source."""
    index: int | None
    """0-based among the page's code cells, None for a script."""


class CodeError(Exception):
    """Code is no Python; the message says why.

    Parameters
    ----------
    message
        Why, without the file and the line.
    line
        1-based line of the file.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


_RUNS_THE_REST = re.compile(r"%%(?:time|timeit|capture|prun|debug)\b")
"""Cell magics whose text is Python of the page."""
_MAGIC = re.compile(r"(?P<before>\s*(?:[\w., ]+=\s*)?)(?:[%!]|\?).*|(?P<asks>\s*)[\w.]+\?{1,2}\s*$")
"""A line that IPython, and not Python, understands."""
_WRITES = re.compile(r"%%writefile\s+(?P<name>\w+\.py)\s*")


def script(text: str) -> Code:
    """Return the code of a script, which may say in a comment that a worker must fail in it."""
    tags = {EXPECT_WORKER_ERROR} if is_failing_example(text) else set()
    lines = tuple(range(1, text.count("\n") + 2))
    return Code(line=1, tags=frozenset(tags), source=text, lines=lines, index=None)


def written(codes: Sequence[Code]) -> dict[str, Code]:
    """Return the Python files that cells write with ``%%writefile``, each that is written once."""
    found: dict[str, list[Code]] = {}
    for code in codes:
        first, _, source = code.source.partition("\n")
        match = _WRITES.fullmatch(first)
        if match is not None and SKIP_EXECUTION not in code.tags:
            file = dc.replace(code, source=source, lines=code.lines[1:])
            found.setdefault(match["name"], []).append(file)
    return {name: files[0] for name, files in found.items() if len(files) == 1}


def runs(code: Code, file: str) -> bool:
    """Tell whether a cell runs a Python file with a line that only IPython understands."""
    line = rf"^[ \t]*(?:%run\b|!.*(?:python|executable)).*(?<![\w/]){re.escape(file)}\b"
    return re.search(line, code.source, re.MULTILINE) is not None


def parse(code: Code) -> ast.Module | None:
    """Return the syntax tree of a cell, None where it holds no Python of the page.

    Raises
    ------
    CodeError
        If it is no Python.
    """
    if SKIP_EXECUTION in code.tags:
        return None
    source = code.source
    try:
        tree: ast.Module | None = _tree(source)
    except SyntaxError as exc:
        if code.index is None:
            raise _error(code, exc) from exc
        tree = _tree_of_cell(code, exc)
    except (ValueError, RecursionError, MemoryError) as exc:
        why = str(exc) or type(exc).__name__
        raise CodeError(f"the code cannot be parsed ({why})", code.lines[0]) from exc
    if tree is not None and code.lines[-1] != len(code.lines):
        _renumber(tree, code.lines)
    return tree


def _error(code: Code, exc: SyntaxError) -> CodeError:
    at = min(max(exc.lineno or 1, 1), len(code.lines))
    return CodeError(f"the code is no Python ({exc.msg})", code.lines[at - 1])


def _tree_of_cell(code: Code, why: SyntaxError) -> ast.Module | None:
    """Parse a cell once more without what only IPython understands.

    None where the whole cell is another language, or where an error is what it shows.
    """
    first = _first_line(code.source)
    if first.startswith("%%") and not _RUNS_THE_REST.match(first):
        return None
    source = "\n".join(_plain_lines(code.source))
    try:
        return _tree(source)
    except SyntaxError as exc:
        if RAISES_EXCEPTION in code.tags:
            return None
        raise _error(code, exc) from why


def _plain_lines(source: str) -> Iterator[str]:
    for line in source.split("\n"):
        match = _MAGIC.fullmatch(line)
        if match is None:
            yield line
        elif (match["before"] or "").rstrip().endswith("="):
            yield f"{match['before']}None"
        else:
            yield f"{_indentation(line)}pass"


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _first_line(source: str) -> str:
    return next((line.strip() for line in source.splitlines() if line.strip()), "")


def _tree(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the code, which is not ours
        return ast.parse(source)


def _renumber(tree: ast.Module, lines: tuple[int, ...]) -> None:
    for node in ast.walk(tree):
        number = getattr(node, "lineno", None)
        if number is not None:
            node.lineno = lines[min(number, len(lines)) - 1]  # type: ignore[attr-defined]
