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
    try:
        print(executor.submit(area, 3).result())
    except Exception as exc:
        print(type(exc))
    executor.shutdown()
    return
"""
EXECUTORS = {
    "swallowed": 'executor = ProcessPoolExecutor(1, get_context("spawn"))',
    "healthy": "executor = get_reusable_executor(max_workers=1)",
}


@pytest.mark.parametrize("name", EXECUTORS)
def test_program_of_marimo(tmp_path: Path, name: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(executor=EXECUTORS[name]))
    command = (sys.executable, "-m", "marimo", "export", "html", "program.py", "-o", "out.html")
    done = watch(tmp_path, name, *command)
    if name == "healthy":
        assert (0, []) == (done.status, done.found), done.err
    else:
        assert (1, [("program.py", "unpickle-task", 28)]) == (done.status, done.found), done.err
