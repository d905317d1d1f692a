"""Find the notebook, cell and line behind code that ran in a kernel, or in a tool, of a command.

Of a cell that runs, its kernel knows the text only, and ipykernel names its code by a hash of the
text. So the cells of the notebooks that the command may have run are hashed in the same way.
"""

from __future__ import annotations

import dataclasses as dc
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from workercheck.evidence import records as ev
from workercheck.recorder import events as _events
from workercheck.run.code_cells import SUFFIXES, CodeCell, by_hash, cell_hash

_NAME = re.compile(r"[/\\]ipykernel_(\d+)[/\\](\d+)\.py$")
"""The file name that ipykernel gives the code of a cell: pid of the kernel, hash of the text."""
_PASSED_OVER = {"node_modules", "site-packages"}


@dc.dataclass(frozen=True, slots=True)
class NotebookLine:
    """A line of a code cell."""

    path: Path
    cell: int
    """0-based, among the code cells that have something to run."""
    line: int
    """1-based, in the file."""
    line_of_cell: int
    text: str
    tags: frozenset[str]
    alike: Path | None
    """Another notebook with the same cell, where nothing tells which of the two ran."""


class Notebooks:
    """The notebooks that a command may run.

    Parameters
    ----------
    argv
        The command.
    cwd
        The folder in which it runs.
    """

    def __init__(self, argv: Sequence[str], cwd: Path) -> None:
        self._cwd = cwd
        self._started = time.time()
        self._arguments = list(_notebooks_among(argv))
        self._kernels: dict[int, ev.KernelStarted] = {}
        self._calls: dict[int, list[list[str]]] = {}
        """By the pid of a kernel: what each call names by which its host started it."""
        self._processes: dict[int, ev.ProcessStarted] = {}
        self._hashes: dict[int, set[int]] = {}
        """By the pid of a kernel: which cells have handed work out."""
        self._read: dict[Path, tuple[int, dict[int, list[CodeCell]]]] = {}
        """By path: when it was written last, and its cells by their hashes."""
        self._project: list[Path] = []
        self._looked_for: set[int] = set()
        """Hashes of cells for which the whole project was looked through."""

    def learn(self, events: Sequence[ev.Event]) -> None:
        """Take from a command's events, whole or so far, what tells its notebooks apart."""
        for event in events:
            if isinstance(event, ev.KernelStarted):
                self._kernels[event.pid] = event
            elif isinstance(event, ev.KernelLaunched):
                self._calls[event.child] = event.notebooks
            elif isinstance(event, ev.Place) and (known := _known_by(event)) is not None:
                self._hashes.setdefault(known[0], set()).add(known[1])
            elif isinstance(event, ev.ProcessStarted):
                self._processes[event.pid] = event
                new = [w for w in _notebooks_among(event.argv) if w not in self._arguments]
                self._arguments += new

    def line_of(self, place: ev.Place) -> NotebookLine | None:
        """Return the line at which a place stands, None for code of no known notebook."""
        known = _known_by(place)
        if known is None:
            return None
        kernel, hash_of_cell = known
        found = self._with(hash_of_cell, self._near(kernel, place.test))
        words = [*self._named(kernel, place.test), *self._arguments]
        # A program may run notebooks of another folder than that in which it leaves its outputs.
        if all(self._is_output(p) and not any(_ends_with(p, w) for w in words) for p in found):
            far = self._with(hash_of_cell, self._far(hash_of_cell))
            found = list(dict.fromkeys([*found, *far]))
        if not found:
            return None
        ranks = sorted((self._rank(path, kernel, place.test), path) for path in found)
        path = ranks[0][1]
        alike = next(
            # One notebook may be kept in two forms.
            (p for rank, p in ranks[1:] if rank[:-2] == ranks[0][0][:-2] and p.stem != path.stem),
            None,
        )
        cells = self._cells(path)[hash_of_cell]
        # Cells with one text are told apart by how many ran before.
        cell = min(cells, key=lambda cell: abs(cell.index + 1 - (place.number or 0)))
        at = min(max(place.line, 1) + cell.above, len(cell.lines)) - 1
        return NotebookLine(
            path=cell.file or path,
            cell=cell.index,
            line=cell.numbers[at],
            line_of_cell=at + 1,
            text=cell.lines[at].strip(),
            tags=cell.tags,
            alike=alike,
        )

    def folder_of(self, place: ev.Place) -> str | None:
        """Return the folder of the kernel of a cell of no known notebook, None outside a kernel."""
        match = _NAME.search(place.file)
        if match is None:
            return None
        kernel = self._kernels.get(int(match[1]))
        return (kernel.cwd if kernel is not None else "") or str(self._cwd)

    def _near(self, kernel: int, test: str | None) -> list[Path]:
        """Return the notebooks that are looked into first."""
        started = self._kernels.get(kernel)
        folders = [self._cwd] + ([Path(started.cwd)] if started is not None else [])
        words = [*self._named(kernel, test), *self._arguments]
        paths = [folder / word for folder in folders for word in words]
        for folder in folders[1:]:
            paths += [folder / name for name in _notebooks_among(sorted(_names_in(folder)))]
        return list(dict.fromkeys(Path(os.path.normpath(path)) for path in paths))

    def _far(self, hash_of_cell: int) -> list[Path]:
        """Return all notebooks of the project, which are looked for once for each cell."""
        if hash_of_cell not in self._looked_for:
            self._looked_for.add(hash_of_cell)
            self._project = list(_below(self._cwd))
        return self._project

    def _named(self, kernel: int, test: str | None) -> list[str]:
        """Return the paths by which the host of a kernel names its notebook."""
        by_calls = [word for call in self._calls.get(kernel, ()) for word in call]
        return [*self._named_by_test(kernel, test), *by_calls]

    def _named_by_test(self, kernel: int, test: str | None) -> list[str]:
        """Return the paths of a notebook in the name of its test or of its session."""
        started = self._kernels.get(kernel)
        words = [(test or "").partition("::")[0], started.session if started is not None else ""]
        return list(_notebooks_among(words))

    def _given_to_host(self, kernel: int) -> list[str]:
        """Return the notebooks in the arguments of the nearest process around a kernel with any.

        None of those of a process that has more arguments than are known.
        """
        seen = {kernel}
        process = self._processes.get(kernel)
        while process is not None and process.ppid not in seen:
            seen.add(process.ppid)
            process = self._processes.get(process.ppid)
            if process is not None and (words := list(_notebooks_among(process.argv))):
                return words if len(process.argv) < _events.WORDS else []
        return []

    def _rank(self, path: Path, kernel: int, test: str | None) -> tuple[float, ...]:
        """Return what is least for the likeliest of several notebooks with the same cell."""
        started = self._kernels.get(kernel)
        cells = self._cells(path)
        given = [i for i, word in enumerate(self._arguments) if _ends_with(path, word)]
        calls = self._calls.get(kernel, [])
        # A host that is given a text names the notebook that it makes of the text as well.
        is_text = bool(given) and path.suffix != ".ipynb"
        # The order in which several are given says nothing of which of them a kernel runs.
        return (
            not any(_ends_with(path, word) for word in self._named_by_test(kernel, test)),
            not (is_text or any(_ends_with(path, w) for call in calls for w in call)),
            -len(self._hashes.get(kernel, set()) & cells.keys()),
            # The notebook that a command makes of a script is named beside it.
            not (given and path.suffix == ".py"),
            not any(_ends_with(path, word) for word in self._given_to_host(kernel)),
            not given,
            self._is_output(path),
            next((i for i, call in enumerate(calls) if any(_ends_with(path, w) for w in call)), 0),
            started is not None and path.parent != Path(started.cwd),
            given[0] if given else len(self._arguments),
            SUFFIXES.index(path.suffix),
        )

    def _is_output(self, path: Path) -> bool:
        """Tell whether the command has written a notebook."""
        return self._read[path][0] / 1e9 > self._started

    def _with(self, hash_of_cell: int, paths: Sequence[Path]) -> list[Path]:
        return [path for path in paths if hash_of_cell in self._cells(path)]

    def _cells(self, path: Path) -> dict[int, list[CodeCell]]:
        try:
            modified = path.stat().st_mtime_ns
        except OSError:
            return {}
        known = self._read.get(path)
        if known is None or known[0] != modified:
            known = self._read[path] = modified, by_hash(path)
        return known[1]


def _known_by(place: ev.Place) -> tuple[int, int] | None:
    """Return the process in which a cell ran, and the hash of its text; None for other code.

    The block of a page that a tool runs in its own process is a cell as well.
    """
    if place.whole:
        return place.pid, cell_hash(place.whole)
    match = _NAME.search(place.file)
    return (int(match[1]), int(match[2])) if match is not None else None


def _notebooks_among(words: Sequence[str]) -> Iterator[str]:
    return (word for word in words if word.endswith(SUFFIXES))


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:  # it was removed
        return []


def _ends_with(path: Path, word: str) -> bool:
    """Tell whether a path is the one that a word means, from whatever folder."""
    parts = Path(os.path.normpath(word)).parts
    parts = tuple(part for part in parts if part != "..")
    return path.parts[-len(parts) :] == parts


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _PASSED_OVER)
        yield from (Path(parent, file) for file in _notebooks_among(sorted(files)))
