"""Examples of doctest under `workercheck run`: the file and the line of each are named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_command import Watched, watch
from test_hosts import tool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

MODULE = '''
"""Numbers.

>>> from concurrent.futures import ProcessPoolExecutor
>>> executor = ProcessPoolExecutor(1)
>>> lost = executor.submit(int, "many")  # unseen-failure
>>> executor.shutdown()
"""


def third(n):
    """Divide.

    >>> from concurrent.futures import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(1) as executor:
    ...     try:
    ...         executor.submit(abs, lambda: 1).result()  # pickle-task
    ...     except Exception:
    ...         print("no")
    no
    """
    return n / 3
'''
SETUP = """
Numbers
=======

.. testsetup::

   from concurrent.futures import ProcessPoolExecutor
   executor = ProcessPoolExecutor(1)
"""
EXAMPLES = """
.. doctest::
   :options: +ELLIPSIS

   >>> executor.submit(pow, 2, 3).result()
   8
   >>> lost = executor.submit(int, "many")  # unseen-failure

>>> try:
...     executor.submit(lambda: 1).result()  # pickle-task
... except Exception:
...     print("no")
no

.. testcode::

   import os
   died = executor.submit(os._exit, 3)  # worker-died
   print(type(died.exception()).__name__)

.. testoutput::

   BrokenProcessPool
"""
HEALTHY = """
.. testcode::

   print(list(executor.map(abs, [-1])))

.. testoutput::

   [1]
"""
HOSTS = {
    "doctest": [sys.executable, "-m", "doctest", "numbers_.py"],
    "pytest": [tool("pytest"), "-q", "-p", "no:cacheprovider", "--doctest-modules", "numbers_.py"],
    "sphinx": [tool("sphinx-build"), "-q", "-b", "doctest", "docs", "out"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "numbers_.py").write_text(MODULE.lstrip())
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "conf.py").write_text("extensions = ['sphinx.ext.doctest']\n")
    (docs / "index.rst").write_text(SETUP + EXAMPLES)
    return tmp_path


@pytest.mark.parametrize("host", HOSTS)
def test_file_and_line_of_an_example_are_named(folder: Path, host: str) -> None:
    name = "docs/index.rst" if host == "sphinx" else "numbers_.py"
    expected = [
        (kind, number)
        for number, line in enumerate((folder / name).read_text().splitlines(), 1)
        if "  # " in line
        for kind in [line.rpartition("# ")[2]]
    ]
    run: Watched = watch(folder, "report", *HOSTS[host])
    found = [
        (finding["kind"], finding["line"])
        for page in run.report["pages"]
        for finding in page["findings"]
        if page["source"] == name
    ]
    assert (1, sorted(expected)) == (run.status, sorted(found)), run.err


def test_healthy_examples_are_green(folder: Path) -> None:
    (folder / "docs/index.rst").write_text(SETUP + HEALTHY)
    run = watch(folder, "report", *HOSTS["sphinx"])
    assert (0, []) == (run.status, run.found), run.err


DOCSTRINGS = '''
"""Numbers."""

def first():
    """Find.

    >>> from concurrent.futures import ProcessPoolExecutor
    >>> executor = ProcessPoolExecutor(1)
    >>> lost = executor.submit(int, "many")
    >>> executor.shutdown()
    """

class Second:
    """Find.

    >>> from concurrent.futures import ProcessPoolExecutor
    >>> executor = ProcessPoolExecutor(1)
    >>> lost = executor.submit(int, "many")
    >>> executor.shutdown()
    """

    @property
    def third(self):
        """Find.

        .. testsetup::

            from concurrent.futures import ProcessPoolExecutor
            executor = ProcessPoolExecutor(1)
            executor.submit(abs, -1).result()

        .. testcode::

            executor = ProcessPoolExecutor(1)
            lost = executor.submit(int, "many")
            executor.shutdown()
        """
'''


def test_docstrings_with_one_text_are_told_apart_by_their_objects(folder: Path) -> None:
    """Of the text of a docstring, Sphinx keeps no line."""
    (folder / "numbers_.py").write_text(DOCSTRINGS.lstrip())
    conf = "import sys\nsys.path.insert(0, '.')\n"
    extensions = "extensions = ['sphinx.ext.autodoc', 'sphinx.ext.doctest']\n"
    (folder / "docs/conf.py").write_text(conf + extensions)
    (folder / "docs/index.rst").write_text(".. automodule:: numbers_\n   :members:\n")
    run = watch(folder, "report", *HOSTS["sphinx"])
    lines = DOCSTRINGS.lstrip().splitlines()
    assert [
        ("numbers_.py", "unseen-failure", number)
        for number, line in enumerate(lines, 1)
        if "lost" in line
    ] == sorted(run.found), run.err
