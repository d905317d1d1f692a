"""Directives of Sphinx that run code, under `workercheck run`: page and line are named."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest
from test_command import Watched, watch
from test_hosts import tool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

EXTENSION = '''
"""Runs the text or the file of a directive, as Matplotlib's does, and sphinx-exec-code."""

import subprocess
import sys

from docutils.nodes import literal_block
from sphinx.util.docutils import SphinxDirective


class Program(SphinxDirective):
    has_content = True

    def run(self):
        command = [sys.executable, "-c", "\\n".join(self.content)]
        done = subprocess.run(command, capture_output=True, text=True)
        return [literal_block(text=done.stdout)]


class Text(SphinxDirective):
    has_content = True

    def run(self):
        exec("\\n".join(self.content), {})
        return []


class File(SphinxDirective):
    required_arguments = 1

    def run(self):
        path = self.env.relfn2path(self.arguments[0])[1]
        with open(path) as file:
            code = file.read()
        exec(code, {})
        return []


def setup(app):
    app.add_directive("run-file", File)
    app.add_directive("run-text", Text)
    app.add_directive("run-program", Program)
'''
LOST = """\
from concurrent.futures import ProcessPoolExecutor
executor = ProcessPoolExecutor(1)

def twice(x):
    return 2 * x

future = executor.submit({task})  # lost
print(future.done(), {task!r})
executor.shutdown()
"""
HEALTHY = """\
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(1) as executor:
    print(executor.submit(abs, -{number}).result())
"""
DIRECTIVES = {
    "ipython": "IPython.sphinxext.ipython_directive",
    "run-text": "run_text",
    "run-program": "run_text",
}
FILE = """\
import os
from concurrent.futures import ThreadPoolExecutor
executor = ThreadPoolExecutor(1)

def go():
    executor.submit(int, {number!r}){end}

go()
executor.shutdown()
"""


def block(directive: str, code: str) -> str:
    argument = " python" if directive == "ipython" else ""
    return f".. {directive}::{argument}\n\n{textwrap.indent(code, '   ')}\n"


def build(folder: Path, directive: str) -> Watched:
    installed = folder / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "run_text.py").write_text(EXTENSION)
    (folder / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {os.fspath(installed)!r})\n"
        f"extensions = [{DIRECTIVES[directive]!r}]\nexclude_patterns = ['out', 'part.rst']\n"
    )
    return watch(folder, "report", tool("sphinx-build"), "-q", ".", "out")


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_page_and_line_of_lost_work_are_named(tmp_path: Path, directive: str) -> None:
    # Each is a message of its own: the bytes of equal ones do not tell where they come from.
    pages = {
        "index.rst": "Index\n=====\n\n.. toctree::\n\n   one\n   two\n",
        "one.rst": f"One\n===\n\n{block(directive, HEALTHY.format(number=1))}\nText.\n\n"
        + block(directive, LOST.format(task="twice, 1")),
        "two.rst": "Two\n===\n\n.. include:: part.rst\n\nText.\n",
        "part.rst": block(directive, HEALTHY.format(number=2))
        + block(directive, LOST.format(task="twice, 2")),
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    run = build(tmp_path, directive)
    expected = {
        name: number
        for name, text in pages.items()
        for number, line in enumerate(text.splitlines(), 1)
        if "# lost" in line
    }
    found = [(page["source"], f["line"]) for page in run.report["pages"] for f in page["findings"]]
    assert (1, sorted(expected.items())) == (run.status, sorted(found)), run.err


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_healthy_page_is_green(tmp_path: Path, directive: str) -> None:
    (tmp_path / "index.rst").write_text(
        "Index\n=====\n\n" + block(directive, HEALTHY.format(number=1))
    )
    run = build(tmp_path, directive)
    assert (0, []) == (run.status, run.found), run.err


def test_file_that_a_directive_runs_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "lost.py").write_text(FILE.format(number="one", end="  # lost"))
    (tmp_path / "codes" / "healthy.py").write_text(FILE.format(number="1", end=".result()"))
    (tmp_path / "index.rst").write_text(
        "Index\n=====\n\n.. run-file:: codes/healthy.py\n\n.. run-file:: codes/lost.py\n"
    )
    run = build(tmp_path, "run-text")
    found = [(page["source"], f["line"]) for page in run.report["pages"] for f in page["findings"]]
    assert (1, [("codes/lost.py", 6)]) == (run.status, found), run.err
