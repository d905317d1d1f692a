"""Jupyter Book 1, which holds Sphinx at 7.4: the oldest that the extension takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import environments
import pytest
from conftest import GATE, HEADER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOST = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
def square(x):
    return x**2
future = ProcessPoolExecutor(1, get_context("spawn")).submit(square, 3)
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.make(tmp_path_factory.mktemp("book") / "env", "jupyter-book")


def build(env: Path, book: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(env / "bin" / "jupyter-book"), "build", "."],
        cwd=book,
        env=os.environ | {"PATH": f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def gate(book: Path) -> subprocess.CompletedProcess[str]:
    outdir = book / "_build" / "html"
    return subprocess.run([sys.executable, GATE, outdir], capture_output=True, text=True)


def test_book_is_red_for_its_lost_work_and_green_without(env: Path, tmp_path: Path) -> None:
    (tmp_path / "_config.yml").write_text("sphinx: {extra_extensions: [workercheck]}\n")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters: [{file: lost}, {file: good}, {file: book}]\n"
    )
    (tmp_path / "index.md").write_text("# Index\n")
    lost = tmp_path / "lost.md"
    lost.write_text(HEADER + "# Lost\n\n```{code-cell}\n1\n```\n\n```{code-cell}" + LOST + "```\n")
    (tmp_path / "good.md").write_text(HEADER + "# Good\n\n```{code-cell}\n6 * 7\n```\n")
    cell = {"cell_type": "code", "source": "6 * 8", "metadata": {}, "outputs": [], "id": "a"}
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {"cell_type": "markdown", "source": "# Book", "metadata": {}, "id": "b"},
            {**cell, "execution_count": None},
        ],
    }
    (tmp_path / "book.ipynb").write_text(json.dumps(notebook, indent=1))

    red = build(env, tmp_path)
    assert 0 != red.returncode
    assert "Sphinx v7.4" in red.stdout
    judged = gate(tmp_path)
    assert 1 == judged.returncode
    assert "lost.md:13: a worker could not unpickle __main__.square" in judged.stdout
    html = tmp_path / "_build" / "html"
    assert "42" in (html / "good.html").read_text()
    assert "48" in (html / "book.html").read_text()

    lost.unlink()
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters: [{file: good}, {file: book}]\n"
    )
    green = build(env, tmp_path)
    assert 0 == green.returncode, green.stdout
    judged = gate(tmp_path)
    assert (0, "") == (judged.returncode, judged.stderr), judged.stdout
