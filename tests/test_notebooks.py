"""Which notebook, cell and line a place in a kernel of a command stands at."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import nbformat
import pytest
from conftest import started
from hypothesis import given
from hypothesis import strategies as st
from workercheck.evidence import records as ev
from workercheck.recorder import events
from workercheck.run.code_cells import cell_hash
from workercheck.run.notebooks import NotebookLine, Notebooks

KERNEL = 7


@given(st.text(max_size=40))
def test_hash_is_that_of_ipykernel(text: str) -> None:
    compiler = pytest.importorskip("ipykernel.compiler")
    assert compiler.murmur2_x86(text, compiler.get_tmp_hash_seed()) == cell_hash(text)


def write(path: Path, *cells: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, path)
    return path


def place(
    text: str,
    *,
    line: int = 1,
    number: int | None = None,
    test: str | None = None,
    kernel: int = KERNEL,
):
    return ev.Place(
        pid=kernel,
        time=0.0,
        id=1,
        file=f"/tmp/ipykernel_{kernel}/{cell_hash(text)}.py",
        line=line,
        text="",
        whole="",
        cell=None,
        number=number,
        test=test,
        executor="",
        through="",
        names=[],
    )


def find(
    cwd: Path,
    place: ev.Place,
    *argv: str,
    folder: str = "",
    session: str = "",
    host: ev.ProcessStarted | None = None,
) -> NotebookLine | None:
    notebooks = Notebooks(argv, cwd)
    if host is not None:
        notebooks.learn([host, started(KERNEL, host.pid)])
    kernel = ev.KernelStarted(pid=KERNEL, time=0.0, cwd=str(cwd / folder), session=session)
    notebooks.learn([kernel, place])
    return notebooks.line_of(place)


def test_line_is_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "1", "\n", 'text = "\\n"\n\nwörk()')
    found = find(tmp_path, place('text = "\\n"\n\nwörk()', line=3))
    assert found is not None
    assert "wörk()" in path.read_text().splitlines()[found.line - 1]
    assert (path, 1, 3, "wörk()", None) == (
        found.path,
        found.cell,
        found.line_of_cell,
        found.text,
        found.alike,
    )


def test_script_without_marks_is_one_cell(tmp_path: Path) -> None:
    text = "import math\n\nwork()\n"
    (tmp_path / "a.py").write_text(text)
    found = find(tmp_path, place(text, line=3), "jupyter", "run", "a.py")
    assert found is not None
    assert ("a.py", 3, "work()") == (found.path.name, found.line, found.text)
    (tmp_path / "empty.py").write_text("\n")
    assert find(tmp_path, place("\n"), "jupyter", "run", "empty.py") is None


def test_cells_with_one_text_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    write(tmp_path / "a.ipynb", "same", "other", "same")
    assert [0, 2] == [find(tmp_path, place("same", number=n)).cell for n in (1, 3)]


@pytest.mark.parametrize("empty", ["", "\n", "\n  \n"])
def test_empty_lines_at_the_beginning_are_those_that_ipython_drops(
    tmp_path: Path, empty: str
) -> None:
    transformers = pytest.importorskip("IPython.core.inputtransformer2")
    text = f"{empty}x = 1\nwork()\n"
    kept = transformers.TransformerManager().transform_cell(text)
    line = kept.split("\n").index("work()") + 1
    write(tmp_path / "a.ipynb", text.rstrip("\n"), f"%%capture\n{text}")
    for number in (1, 2):
        found = find(tmp_path, place(text, line=line, number=number))
        assert (number - 1, "work()") == (found.cell, found.text)


def test_text_below_a_magic_is_of_its_cell(tmp_path: Path) -> None:
    write(tmp_path / "a.ipynb", "%%capture\nx = 1\nwork()")
    assert 3 == find(tmp_path, place("x = 1\nwork()\n", line=2)).line_of_cell


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"argv": ["--execute", "b.ipynb"]}, "b.ipynb"),
        ({"session": "b.ipynb"}, "b.ipynb"),
        ({"argv": ["a.ipynb"], "session": "b.ipynb"}, "b.ipynb"),
        ({"argv": ["a.ipynb"], "test": "b.ipynb::b.ipynb"}, "b.ipynb"),
        ({"folder": "sub"}, "sub/a.ipynb"),
        ({"folder": "sub", "argv": ["b.ipynb"]}, "b.ipynb"),
    ],
)
def test_copies_are_told_apart(tmp_path: Path, how: dict[str, str], name: str) -> None:
    for path in ("a.ipynb", "b.ipynb", "sub/a.ipynb"):
        write(tmp_path / path, "work()")
    options = dict(how)
    test, argv = options.pop("test", None), options.pop("argv", [])
    found = find(tmp_path, place("work()", test=test), *argv, **options)
    assert (tmp_path / name, None) == (found.path, found.alike)


@pytest.mark.parametrize("argv", [(), ("a.ipynb", "b.ipynb")], ids=["found", "given"])
def test_copies_that_nothing_tells_apart_are_both_named(
    tmp_path: Path, argv: tuple[str, ...]
) -> None:
    a, b = (write(tmp_path / name, "work()") for name in ("a.ipynb", "b.ipynb"))
    found = find(tmp_path, place("work()"), *argv)
    assert (a, b) == (found.path, found.alike)


def test_copies_that_one_program_runs_are_told_apart_by_the_folder_of_the_kernel(
    tmp_path: Path,
) -> None:
    """As nbconvert runs each notebook in its own folder, in place or not."""
    words = ("one/a.ipynb", "two/a.ipynb")
    one, two = (write(tmp_path / word, "work()") for word in words)
    # Of a long command, a process tells the beginning.
    host = started(1, 0, "nbconvert", *["--option"] * (events.WORDS - 2), words[0])
    for folder, path in [("one", one), ("two", two)]:
        found = find(tmp_path, place("work()"), *words, folder=folder, host=host)
        assert (path, None) == (found.path, found.alike)
        written_later(path)
        write(tmp_path / "out" / "a.ipynb", "work()")


def test_copies_that_several_programs_run_are_told_apart_by_their_arguments(
    tmp_path: Path,
) -> None:
    """As a loop runs papermill for each notebook, all kernels in one folder."""
    for name in ("a", "b"):
        write(tmp_path / f"{name}.ipynb", "work()")
    notebooks = Notebooks(["make"], tmp_path)
    for number, name in enumerate(("a", "b"), 1):
        kernel = KERNEL * number
        written_later(write(tmp_path / "out" / f"{name}.ipynb", "work()"))
        words = [f"{name}.ipynb", f"out/{name}.ipynb"]
        notebooks.learn([started(number, 0, "papermill", *words), started(kernel, number, "-f")])
        notebooks.learn([ev.KernelStarted(pid=kernel, time=0.0, cwd=str(tmp_path), session="")])
        found = notebooks.line_of(place("work()", kernel=kernel))
        assert (tmp_path / f"{name}.ipynb", None) == (found.path, found.alike)


def test_copies_that_one_program_runs_in_one_folder_are_told_apart_by_its_calls(
    tmp_path: Path,
) -> None:
    """As a script gives notebook after notebook to papermill, which names its output as well."""
    a, b = (write(tmp_path / f"{name}.ipynb", "work()") for name in ("a", "b"))
    script = ["a.ipynb", "b.ipynb"]
    notebooks = Notebooks(["python", "script.py"], tmp_path)
    for kernel, (name, calls) in enumerate(
        [
            ("a", [["a-out.ipynb"], ["a.ipynb", "a-out.ipynb"], script]),
            ("b", [["b-out.ipynb"], ["b.ipynb", "b-out.ipynb"], script]),
            ("a", [script]),
        ]
    ):
        written_later(write(tmp_path / f"{name}-out.ipynb", "work()"))
        notebooks.learn([ev.KernelLaunched(pid=1, time=0.0, child=kernel, notebooks=calls)])
        found = notebooks.line_of(place("work()", kernel=kernel))
        expected = (a, b) if calls == [script] else (tmp_path / f"{name}.ipynb", None)
        assert expected == (found.path, found.alike)


def written_later(path: Path) -> Path:
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))
    return path


def test_output_beside_the_kernel_is_not_the_notebook_of_another_folder(tmp_path: Path) -> None:
    # As a program leaves it that executes notebooks of a folder with papermill.
    source = write(tmp_path / "in" / "a.ipynb", "work()")
    output = write(tmp_path / "a-out.ipynb", "work()", "more()")
    assert output == find(tmp_path, place("work()")).path
    written_later(output)
    assert (source, None) == ((found := find(tmp_path, place("work()"))).path, found.alike)


def test_notebook_that_is_executed_in_its_place_is_found_beside_a_copy(tmp_path: Path) -> None:
    path = written_later(write(tmp_path / "a.ipynb", "work()"))
    write(tmp_path / "kept" / "a.ipynb", "work()")
    assert path == find(tmp_path, place("work()"), "--inplace", "a.ipynb").path
    assert path == find(tmp_path, place("work()", test="a.ipynb::")).path


def test_output_of_the_command_is_not_its_notebook(tmp_path: Path) -> None:
    b = write(tmp_path / "b.ipynb", "work()")
    a = write(tmp_path / "a.ipynb", "work()")
    os.utime(b, (0, 0))
    written_later(a)
    assert b == find(tmp_path, place("work()")).path


def test_notebook_is_found_anywhere_in_the_project(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "a.ipynb", "work()")
    assert path == find(tmp_path, place("work()")).path


def test_what_is_no_notebook_is_passed_over(tmp_path: Path) -> None:
    for name, text in [("a", "{"), ("b", "[]"), ("c", '{"cells": [{}]}'), ("d", '{"cells": 1}')]:
        (tmp_path / f"{name}.ipynb").write_text(text)
    (tmp_path / "e.ipynb").write_bytes(b"\xff")
    assert find(tmp_path, place("work()")) is None


def test_file_of_a_module_is_no_cell(tmp_path: Path) -> None:
    write(tmp_path / "a.ipynb", "work()")
    module = place("work()")
    object.__setattr__(module, "file", str(tmp_path / "module.py"))
    assert find(tmp_path, module) is None


@pytest.mark.parametrize("suffix", [".md", ".qmd"])
@pytest.mark.parametrize(
    ("block", "tags"),
    [
        ("{code-cell} ipython3\n:tags: [hide-input, expect-worker-error]\n:x: y\n", 2),
        ("{code-cell}\n---\nx: y\ntags: [hide-input]\n---\n", 1),
        ("{code-cell}", 0),
        ("{jupyter-execute}\n:hide-code:\n", 0),
        ("{python}", 0),
        ("python", 0),
    ],
)
def test_cell_of_markdown_is_found(tmp_path: Path, suffix: str, block: str, tags: int) -> None:
    path = tmp_path / f"page{suffix}"
    path.write_text(f"# Title\n\n```{block}\nfirst()\nwork()\n\n```\n\n```python\nlast()\n```\n")
    found = find(tmp_path, place("first()\nwork()", line=2))
    assert "work()" == path.read_text().splitlines()[found.line - 1] == found.text
    assert (0, tags) == (found.cell, len(found.tags))
    assert 1 == find(tmp_path, place("last()")).cell


@pytest.mark.parametrize("options", ["", ":hide-code:\n"])
@pytest.mark.parametrize("margin", ["", "   "])
def test_cell_of_restructuredtext_is_found(tmp_path: Path, options: str, margin: str) -> None:
    path = tmp_path / "page.rst"
    text = f"""\
.. jupyter-execute::
    {options}
    def first():
        work()

    first()

Text

.. jupyter-execute::

    last()"""
    path.write_text(f"Title\n=====\n\n{textwrap.indent(text, margin)}")
    ran = "def first():\n    work()\n\nfirst()"
    for line, expected in (2, "work()"), (4, "first()"):
        found = find(tmp_path, place(ran, line=line))
        assert expected == path.read_text().splitlines()[found.line - 1].strip() == found.text
        assert 0 == found.cell
    assert 1 == find(tmp_path, place("last()")).cell


@pytest.mark.parametrize(("name", "is_alike"), [("a.md", False), ("b.md", True)])
def test_notebook_is_meant_where_a_text_file_has_the_same_cell(
    tmp_path: Path, name: str, is_alike: bool
) -> None:
    text = tmp_path / name
    text.write_text("```python\nwork()\n```\n")
    path = write(tmp_path / "a.ipynb", "work()")
    found = find(tmp_path, place("work()"))
    assert (path, text if is_alike else None) == (found.path, found.alike)


SCRIPT = """\
# ---
# jupyter: {}
# ---

# %% [markdown]
# work()

# %% tags=["hide-input", "x"]
first()

work()

# %%
# %time last()
"""


def test_cell_of_a_script_is_found(tmp_path: Path) -> None:
    path = tmp_path / "page.py"
    path.write_text(SCRIPT)
    found = find(tmp_path, place("first()\n\nwork()", line=3))
    assert (path, 11, 0, 2) == (found.path, found.line, found.cell, len(found.tags))
    assert (1, 14) == ((last := find(tmp_path, place("%time last()"))).cell, last.line)


def test_script_is_meant_where_the_command_makes_a_notebook_of_it(tmp_path: Path) -> None:
    path = tmp_path / "page.py"
    path.write_text(SCRIPT)
    write(tmp_path / "out.ipynb", "first()\n\nwork()")
    ran = place("first()\n\nwork()", line=3)
    assert path == find(tmp_path, ran, "--output", "out.ipynb", "page.py").path
    assert "out.ipynb" == find(tmp_path, ran, "out.ipynb").path.name


@pytest.mark.parametrize("suffix", [".py", ".md"])
def test_text_is_meant_where_its_host_names_the_notebook_that_it_makes_of_it(
    tmp_path: Path, suffix: str
) -> None:
    """As jupytext does with `--execute`, and papermill with what jupytext writes into a pipe."""
    path = tmp_path / f"page{suffix}"
    path.write_text("# %%\nwork()\n" if suffix == ".py" else "```python\nwork()\n```\n")
    output = written_later(write(tmp_path / "page.ipynb", "work()"))
    notebooks = Notebooks(["jupytext", "--execute", path.name], tmp_path)
    calls = [["page.ipynb"]]
    notebooks.learn([ev.KernelLaunched(pid=1, time=0.0, child=KERNEL, notebooks=calls)])
    assert (path, 2) == ((found := notebooks.line_of(place("work()"))).path, found.line)
    # A test is of the file that it names, whatever else the command is given.
    assert output == notebooks.line_of(place("work()", test="page.ipynb::")).path


@pytest.mark.parametrize("name", ["codes/part.py", "/deep/codes/part.py"])
def test_file_that_a_directive_runs_is_found(tmp_path: Path, name: str) -> None:
    file = tmp_path / "deep/codes/part.py"
    file.parent.mkdir(parents=True)
    file.write_text("first()\nwork()\n")
    page = tmp_path / "deep/page.rst"
    page.write_text(f"Title\n=====\n\n.. jupyter-execute:: {name}\n")
    found = find(tmp_path, place("first()\nwork()", line=2))
    assert (file, 2) == (found.path, found.line)
