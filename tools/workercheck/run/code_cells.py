"""Read the code cells of a notebook file: `.ipynb`, Markdown or reStructuredText, or a script.

A kernel knows a cell by its text, which is not always what the file has: hosts leave out options
and empty lines around it, and a magic may run what is below it as a cell of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".ipynb", ".md", ".qmd", ".Rmd", ".rst", ".py")
"""Names of notebook files end with these; of files with the same cells, the first is meant."""

_SEED = 0xC70F6907
_MULTIPLIER = 0x5BD1E995
_BLOCK = re.compile(
    r"^(?P<fence>`{3,}|~{3,}) *(?:(?:python3?|py|ipython3?)\b[^\n]*|\{python[^\n}]*\}|"
    r"\{(?:code-cell|jupyter-execute)\}[^\n]*)[ \t]*\n"
    r"(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_DIRECTIVE = re.compile(
    r"^(?P<indent> *)\.\. jupyter-execute::[ \t]*\n"
    r"(?:(?P=indent) +:[^\n]*\n)*"  # options
    r"(?:[ \t]*\n)+"
    r"(?P<body>(?:(?P=indent) +\S[^\n]*(?:\n|\Z)|[ \t]*\n)+)",
    re.MULTILINE,
)
_LOADED = re.compile(r"^[ \t]*\.\. jupyter-execute::[ \t]+(?P<file>\S+)[ \t]*$", re.MULTILINE)
"""The directive that runs a whole file as one cell."""
_PERCENT = re.compile(r"^# ?%%(?P<rest>.*)$", re.MULTILINE)
"""The line with which a cell of a script begins, as jupytext, Spyder and VS Code know it."""
_MAGIC = re.compile(r"^# ?(?=[%!]\w)", re.MULTILINE)
"""The comment that jupytext makes of a magic."""
_OPTIONS = re.compile(
    r"(?:---\n.*?^---[ \t]*\n|(?:[ \t]*:[\w-]+:[^\n]*\n)+)", re.MULTILINE | re.DOTALL
)
_TAGS = re.compile(r"^[ \t]*:?tags: *\[(.*)\]", re.MULTILINE)


@dc.dataclass(frozen=True, slots=True)
class CodeCell:
    """A code cell that has something to run."""

    index: int
    """0-based, among those cells."""
    lines: tuple[str, ...]
    numbers: tuple[int, ...]
    """The line of the file for each line of the cell."""
    tags: frozenset[str]
    above: int = 0
    """How many lines of it come before the text that runs."""
    file: Path | None = None
    """The file that has its lines, None where that is the notebook itself."""


def by_hash(path: Path) -> dict[int, list[CodeCell]]:
    """Return the cells of a file by what ipykernel may call them; what is no notebook has none."""
    found: dict[int, list[CodeCell]] = {}
    try:
        text = path.read_text("utf-8")
        cells = [*_READERS.get(path.suffix, _in_markdown)(text), *_loaded_by(path, text)]
        for cell in cells:
            for hash_of_cell, named in _names(cell):
                found.setdefault(hash_of_cell, []).append(named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


def _names(cell: CodeCell) -> Iterator[tuple[int, CodeCell]]:
    """Yield the hashes of the texts that may run for a cell, each with what is above it.

    IPython drops the empty lines at the beginning of what it runs.
    """
    text = "\n".join(cell.lines)
    above = _empty_lines(cell.lines)
    # As it is, without empty lines around it, and with a newline at its end.
    for variant in dict.fromkeys([text, text.strip("\n"), text.rstrip("\n") + "\n"]):
        yield cell_hash(variant), dc.replace(cell, above=above)
    if cell.lines[0].startswith("%%"):
        below = cell.lines[1:]
        within = "\n".join(below).rstrip("\n") + "\n"
        yield cell_hash(within), dc.replace(cell, above=1 + _empty_lines(below))


def _empty_lines(lines: Sequence[str]) -> int:
    """Return how many lines at the beginning are empty."""
    return next((number for number, line in enumerate(lines) if line.strip()), 0)


def _in_notebook(text: str) -> Iterator[CodeCell]:
    cells = json.loads(text)["cells"]
    begins = begins_of(text, len(cells))
    index = 0
    for cell, begin, end in zip(cells, begins, begins[1:], strict=False):
        source = _source(cell)
        if cell["cell_type"] == "code" and source.strip():
            lines = tuple(source.split("\n"))
            tags = frozenset(map(str, cell.get("metadata", {}).get("tags", ())))
            yield CodeCell(index, lines, tuple(numbers_of(text, begin, end, lines)), tags)
            index += 1


def _in_markdown(text: str) -> Iterator[CodeCell]:
    blocks = [match for match in _BLOCK.finditer(text) if match["body"].strip()]
    for index, block in enumerate(blocks):
        body = block["body"]
        options = _OPTIONS.match(body)
        begin = options.end() if options else 0
        tags = _TAGS.search(options[0]) if options else None
        lines = tuple(body[begin:].rstrip("\n").split("\n"))
        first = text.count("\n", 0, block.start("body") + begin) + 1
        yield CodeCell(
            index,
            lines,
            tuple(range(first, first + len(lines))),
            frozenset(re.findall(r"[\w-]+", tags[1]) if tags else ()),
        )


def _in_rst(text: str) -> Iterator[CodeCell]:
    for index, block in enumerate(_DIRECTIVE.finditer(text)):
        body = textwrap.dedent(block["body"]).rstrip()
        lines = tuple(line.rstrip() for line in body.split("\n"))
        first = text.count("\n", 0, block.start("body")) + 1
        yield CodeCell(index, lines, tuple(range(first, first + len(lines))), frozenset())


def _in_script(text: str) -> Iterator[CodeCell]:
    index = 0
    marks = list(_PERCENT.finditer(text))
    if not marks:  # `jupyter run` has a kernel execute the script as one cell
        if text.strip():
            lines = tuple(text.rstrip().split("\n"))
            yield CodeCell(0, lines, tuple(range(1, len(lines) + 1)), frozenset())
        return
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        body = text[mark.end() + 1 : end].rstrip()
        if body.strip() and not mark["rest"].strip().endswith(("[markdown]", "[md]", "[raw]")):
            lines = tuple(_MAGIC.sub("", body).split("\n"))
            first = text.count("\n", 0, mark.end()) + 2
            numbers = tuple(range(first, first + len(lines)))
            tags = re.search(r"tags=\[(.*?)\]", mark["rest"])
            words = re.findall(r"[\w-]+", tags[1]) if tags else ()
            yield CodeCell(index, lines, numbers, frozenset(words))
            index += 1


def _loaded_by(path: Path, text: str) -> Iterator[CodeCell]:
    """Yield the files that a page of jupyter-sphinx runs, each of them a cell."""
    if path.suffix != ".rst":
        return
    for index, match in enumerate(_LOADED.finditer(text)):
        # A path that begins with a slash is meant from the root of the site, somewhere above.
        name = match["file"].lstrip("/")
        file = next((folder / name for folder in path.parents if (folder / name).exists()), path)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = tuple(file.read_text("utf-8").rstrip().split("\n"))
            numbers = tuple(range(1, len(lines) + 1))
            yield CodeCell(index, lines, numbers, frozenset(), file=file)


_READERS = {".ipynb": _in_notebook, ".rst": _in_rst, ".py": _in_script}


def _source(cell: Any) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def begins_of(text: str, count: int) -> list[int]:
    """Return where each cell begins in the file, and where the last one ends."""
    return [*(key_of_each(text, count) or [0] * count), len(text)]


def key_of_each(text: str, count: int) -> list[int] | None:
    """Return where the key stands that each cell has, None where there are not so many."""
    # Within a text the quotes are escaped, so that this matches keys only.
    keys = [match.start() for match in re.finditer(r'(?<!\\)"cell_type"\s*:', text)]
    return keys if len(keys) == count else None


def numbers_of(text: str, begin: int, end: int, lines: Sequence[str]) -> list[int]:
    """Return the line of the file for each line of a cell: that of the cell, where all are one."""
    for match in re.compile(r'(?<!\\)"source"\s*:\s*\[\s*').finditer(text, begin, end):
        first = text.count("\n", 0, match.end())
        in_file = text[match.end() : end].split("\n")[: len(lines)]
        if [_unquoted(line) for line in in_file] == list(lines):
            return [first + 1 + i for i in range(len(lines))]
    return [text.count("\n", 0, begin) + 1] * len(lines)


def _unquoted(line: str) -> str | None:
    try:
        return str(json.loads(line.strip().rstrip(","))).rstrip("\r\n")
    except ValueError:
        return None


def cell_hash(source: str) -> int:
    """Return the hash of a cell's text by which ipykernel names its code: MurmurHash2."""
    data = source.encode()
    value = _SEED ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _MULTIPLIER & 0xFFFFFFFF
        k = (k ^ k >> 24) * _MULTIPLIER & 0xFFFFFFFF
        value = value * _MULTIPLIER & 0xFFFFFFFF ^ k
    if whole < len(data):
        rest = int.from_bytes(data[whole:], "little")
        value = (value ^ rest) * _MULTIPLIER & 0xFFFFFFFF
    value = (value ^ value >> 13) * _MULTIPLIER & 0xFFFFFFFF
    return value ^ value >> 15
