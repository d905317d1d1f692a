"""Hosts that execute notebooks, under `workercheck run`: which notebook, cell and line is to blame.

Every host says success over the notebook with the faults.
"""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from test_command import Watched, watch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

FUNCTIONS = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from loky import get_reusable_executor

def area(x):
    return x * x

def slow(x):
    time.sleep(1)
    raise ValueError("nobody asks")

context = multiprocessing.get_context("forkserver")
"""
SWALLOWED = """
try:
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        executor.submit(area, 1).result()
except Exception:
    pass
"""
TIMED = """
%%time

late = get_reusable_executor(max_workers=1).submit(slow, 1)
"""
LOST = """
executor = ProcessPoolExecutor(1, mp_context=context)

future = executor.submit(area, 2)
"""
HEADER = "---\nkernelspec:\n  name: python3\n  display_name: Python 3\n---\n\n"
MENDED = "get_reusable_executor(max_workers=1).submit(area, 1).result()"
FAULTS = (FUNCTIONS, SWALLOWED, TIMED, MENDED, LOST)
HEALTHY = (
    FUNCTIONS,
    "print(list(get_reusable_executor(max_workers=2).map(area, range(3))))",
    "with ProcessPoolExecutor(1, mp_context=context) as executor:\n"
    "    print(executor.submit(abs, -1).result())",
    "seen = get_reusable_executor(max_workers=2).submit(slow, 1).exception()",
    SWALLOWED,
    "idle = ProcessPoolExecutor(1, mp_context=context)\nassert idle.submit(abs, -1).result() == 1",
)
TAGGED = {FAULTS: 3, HEALTHY: 4}
"""The cell of each notebook that says that it shows a failure on purpose."""

FAULTY = [
    (1, 44, "unpickle-task", False),
    (2, 58, "unseen-failure", False),
    (3, 72, "expected-but-absent", False),
    (4, 84, "unpickle-task", False),
]
"""0-based cell, line of the file, kind of each finding, and whether it is expected."""
FOUND = {
    "faults.ipynb": FAULTY,
    "copy.ipynb": FAULTY,
    "text.md": [(1, 25, "unpickle-task", False)],
    "healthy.ipynb": [(TAGGED[HEALTHY], 79, "unpickle-task", True)],
}

PYTEST = ("pytest", "-p", "no:cacheprovider", "faults.ipynb", "healthy.ipynb")
HOSTS = {
    "nbconvert": (
        *("jupyter-nbconvert", "--to=notebook", "--output-dir=out", "--execute"),
        *("faults.ipynb", "healthy.ipynb"),
    ),
    "papermill": ("papermill", "-p", "x", "1", "faults.ipynb", "out/faults.ipynb"),
    "papermill healthy": ("papermill", "healthy.ipynb", "out/healthy.ipynb"),
    "nbmake": (*PYTEST, "--nbmake"),
    "nbmake -n 2": (*PYTEST, "copy.ipynb", "--nbmake", "-n", "2"),
    "nbval": (*PYTEST, "copy.ipynb", "--nbval-lax"),
    "nbsphinx": ("sphinx-build", "-q", ".", "out"),
}

METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write(path: Path, cells: tuple[str, ...]) -> None:
    title = nbformat.v4.new_raw_cell(
        "Title\n=====", metadata={"raw_mimetype": "text/restructuredtext"}
    )
    notebook = nbformat.v4.new_notebook(
        cells=[title, *[nbformat.v4.new_code_cell(cell.strip()) for cell in cells]],
        metadata=METADATA,
    )
    notebook.cells[1 + TAGGED[cells]].metadata["tags"] = ["expect-worker-error"]
    nbformat.write(notebook, path)


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def fill(folder: Path) -> Path:
    (folder / "out").mkdir()
    write(folder / "faults.ipynb", FAULTS)
    write(folder / "healthy.ipynb", HEALTHY)
    blocks = "".join(
        f"```{{code-cell}} ipython3\n{code.strip()}\n```\n\n"
        for code in (FUNCTIONS, LOST + "# text")
    )
    (folder / "text.md").write_text(HEADER + blocks)
    (folder / "conf.py").write_text(
        "extensions = ['nbsphinx']\nexclude_patterns = ['out']\n"
        "nbsphinx_custom_formats = {'.md': ['jupytext.reads', {'fmt': 'md:myst'}]}\n"
    )
    (folder / "index.rst").write_text(".. toctree::\n\n   faults\n   healthy\n   text\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    """Every host, watched; most of the time is spent waiting for kernels."""

    def run(name: str) -> Watched:
        folder = fill(tmp_path_factory.mktemp("notebooks"))
        if "copy.ipynb" in HOSTS[name]:
            shutil.copy(folder / "faults.ipynb", folder / "copy.ipynb")
        program, *arguments = HOSTS[name]
        return watch(folder, "report", tool(program), *arguments)

    with ThreadPoolExecutor(3) as executor:
        return dict(zip(HOSTS, executor.map(run, HOSTS), strict=True))


@pytest.mark.parametrize("name", HOSTS)
def test_notebook_cell_and_line_are_named(runs: dict[str, Watched], name: str) -> None:
    run = runs[name]
    words = " ".join(HOSTS[name]) if name != "nbsphinx" else "faults.ipynb healthy.ipynb text.md"
    notebooks = {file: FOUND[file] for file in FOUND if file in words}
    found = {
        page["source"]: [(f["cell"], f["line"], f["kind"], f["expected"]) for f in page["findings"]]
        for page in run.report["pages"]
        if page["findings"] or page["source"].endswith((".ipynb", ".md"))
    }
    assert notebooks == found, run.err
    assert (0 if name == "papermill healthy" else 1) == run.status, run.err


def test_line_of_the_cell_is_said(runs: dict[str, Watched]) -> None:
    err = runs["papermill"].err
    for cell, line, text in [
        (2, 3, "executor.submit(area, 1).result()"),
        (3, 3, "late = get_reusable_executor(max_workers=1).submit(slow, 1)"),
        (5, 3, "future = executor.submit(area, 2)"),
    ]:
        assert f"code cell {cell}, line {line}, {text!r}: " in err


def test_test_of_a_notebook_fails(folder: Path) -> None:
    """With the plugin, the test that executes the whole notebook is told."""
    run = watch(
        folder, "plugin", tool("pytest"), *PYTEST[1:], "--nbmake", "--workercheck", "-k", "faults"
    )
    assert 1 == run.status
    assert "faults.ipynb::faults.ipynb" in run.out
    assert "code cell 5, line 3, 'future = executor.submit(area, 2)': " in run.out


SCRIPT = """
import papermill

for name, word in [("a.ipynb", "1"), ("b.ipynb", "many"), ("c.ipynb", "3")]:
    papermill.execute_notebook(name, "out/" + name, parameters={"word": word}, progress_bar=False)
"""


def test_copies_that_a_script_gives_to_papermill_are_told_apart(folder: Path) -> None:
    work = "from loky import get_reusable_executor\n\nget_reusable_executor(1).submit(int, word)"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(work)],
        metadata=METADATA,
    )
    for name in "abc":
        nbformat.write(notebook, folder / f"{name}.ipynb")
    (folder / "script.py").write_text(SCRIPT)
    run = watch(folder, "report", sys.executable, "script.py")
    assert [("b.ipynb", 0, "unseen-failure")] == [
        (page["source"], finding["cell"], finding["kind"])
        for page in run.report["pages"]
        for finding in page["findings"]
    ], run.err
    assert "or a.ipynb" not in run.err
