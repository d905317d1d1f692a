"""marimo under `workercheck run`: the line of the program whose work was lost is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_command import watch

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or sys.version_info >= (3, 15), reason="no marimo, or no POSIX"
)

PROGRAM = """import marimo

app = marimo.App()


@app.cell
def _():
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from loky import get_reusable_executor

    return ProcessPoolExecutor, get_context, get_reusable_executor


@app.cell
def _():
    def area(x):
        return x * x

    return (area,)


@app.cell
def _(ProcessPoolExecutor, area, get_context, get_reusable_executor):
    {executor}
    {work}
    return
"""
SPAWN = 'executor = ProcessPoolExecutor(1, get_context("spawn"))'
LOKY = "executor = get_reusable_executor(max_workers=1)"
SWALLOWED = """try:
        print(executor.submit(area, 3).result())
    except Exception as exc:
        print(type(exc))
    executor.shutdown()"""
# marimo ends its kernel as soon as the last cell has run, by a signal.
LAST = "future = executor.submit(area, 3)"
CELLS = {
    "swallowed": (SPAWN, SWALLOWED),
    "last cell": (SPAWN, LAST),
    "healthy": (LOKY, SWALLOWED),
    "healthy last cell": (LOKY, LAST),
}


@pytest.mark.parametrize("name", CELLS)
def test_program_of_marimo(tmp_path: Path, name: str) -> None:
    program = tmp_path / "program.py"
    executor, work = CELLS[name]
    program.write_text(PROGRAM.format(executor=executor, work=work))
    command = (sys.executable, "-m", "marimo", "export", "html", "program.py", "-o", "out.html")
    done = watch(tmp_path, name, *command)
    if "healthy" in name:
        assert (0, []) == (done.status, done.found), done.err
    else:
        line = 27 if name == "last cell" else 28
        assert (1, [("program.py", "unpickle-task", line)]) == (done.status, done.found), done.err
