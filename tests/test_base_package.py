"""The base package, as it installs itself: enough for any command and for a test suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import environments
import pytest
from conftest import HEADER, PASSES, ROOT

sys.path.append(str(ROOT / "tools"))

import bootstrap

LOST = """
from concurrent.futures import ProcessPoolExecutor

def area(x):
    return x * missing

def test_lost():
    with ProcessPoolExecutor(1) as executor:
        future = executor.submit(area, 2)

if __name__ == "__main__":
    test_lost()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, and an environment with workercheck, what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "test_area.py").write_text(LOST.lstrip())
    environments.empty(folder / "env", sys.executable)
    wheel = ["build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([bootstrap.tool("uv"), *wheel, "--out-dir", folder, ROOT], check=True)
    environments.install(folder / "env", *folder.glob("*.whl"))
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "env" / "bin" / words[0], *words[1:]],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_brings_psutil_and_nothing_else(folder: Path) -> None:
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    found = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
    assert {"workercheck", "psutil"} == found


def test_it_watches_any_command(folder: Path) -> None:
    done = run(folder, "workercheck", "run", "--", "env/bin/python", "test_area.py")
    assert 1 == done.returncode, done.stderr
    assert "test_area.py:8: a future of __main__.area failed and nobody looked" in done.stderr


@pytest.mark.parametrize("words", [["doctor"], ["run", "page.md"]], ids=lambda words: words[0])
def test_what_needs_more_says_so(folder: Path, words: list[str]) -> None:
    done = run(folder, "workercheck", *words)
    assert 2 == done.returncode
    assert "pip install 'workercheck[notebooks]'" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_command_without_dashes_is_no_page_that_needs_more(folder: Path) -> None:
    done = run(folder, "workercheck", "run", "test_area.py")
    assert 2 == done.returncode
    assert "before a command: workercheck run -- python test_area.py" in done.stderr
    assert "pip install" not in done.stderr


def test_it_reads_scripts_and_says_what_pages_need(folder: Path) -> None:
    lost = LOST.replace("submit(area, 2)", "submit(lambda: area(2))")
    (folder / "lost.py").write_text(lost.lstrip())
    assert 0 == run(folder, "workercheck", "lint", "test_area.py").returncode
    done = run(folder, "workercheck", "lint", "lost.py")
    assert 1 == done.returncode, done.stderr
    assert "lost.py:8: __main__.<lambda>, a lambda of the script, cannot be pickled" in done.stdout
    (folder / "page.md").write_text(f"{HEADER}```{{code-cell}}\n{PASSES}\n```\n")
    done = run(folder, "workercheck", "lint", "page.md")
    assert 2 == done.returncode
    assert done.stderr.startswith("page.md: cannot read pages: ")
    assert "pip install 'workercheck[notebooks]'" in done.stderr


def test_it_watches_a_test_suite(folder: Path) -> None:
    environments.install(folder / "env", "pytest")
    done = run(folder, "pytest", "--workercheck", "-p", "no:cacheprovider")
    assert 1 == done.returncode, done.stderr
    assert "test_area.py:8: a future of test_area.area failed and nobody looked" in done.stdout


def test_its_extra_for_notebooks_runs_pages_without_sphinx(folder: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    environments.install(folder / "env", f"workercheck[notebooks] @ {wheel.as_uri()}")
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    assert not (packages / "sphinx").exists()
    (folder / "page.md").write_text(f"{HEADER}```{{code-cell}}\n{PASSES}\n```\n")
    done = run(folder, "workercheck", "run", "page.md")
    assert (0, "workercheck: 1 page with code, 0 failed\n") == (done.returncode, done.stdout)


def test_extension_without_its_extra_says_so(folder: Path, tmp_path: Path) -> None:
    environments.install(folder / "env", "sphinx")
    (tmp_path / "conf.py").write_text('extensions = ["workercheck"]\n')
    done = run(folder, "sphinx-build", str(tmp_path), str(tmp_path / "html"))
    assert 2 == done.returncode
    assert "pip install 'workercheck[sphinx]'" in done.stderr
