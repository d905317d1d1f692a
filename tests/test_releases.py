"""The regression pair: the same pages with adaptive's last broken release and with the locked one.

Up to 1.5.0 the default executor on Linux is a process pool, which on Python 3.14 cannot find a
function of the page; since 1.5.1 it is loky. Both come from the index, an install apart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import environments
import pytest
from conftest import GATE, ROOT

PAGES = (
    "tutorial/tutorial.Learner1D",
    "tutorial/tutorial.IntegratorLearner",
    "how-to/a-runner-that-fails",
)
STOCK = "WITHOUT_WORKERCHECK"
BROKEN = "adaptive==1.5.0"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the locked packages; the tests replace adaptive in it."""
    return environments.make(tmp_path_factory.mktemp("pair") / "env", "docs")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, with the three pages of the pair and no others."""
    root = tmp_path_factory.mktemp("pair")
    for folder in ("docs", "requirements"):  # conf.py reads both
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("_build"))
    source = root / "docs" / "source"
    for page in source.rglob("*.md"):
        if page.relative_to(source).with_suffix("").as_posix() not in PAGES:
            page.unlink()
    toctree = "\n".join(PAGES)
    (source / "index.md").write_text(f"# Pair\n\n```{{toctree}}\n{toctree}\n```\n")
    with (source / "conf.py").open("a") as conf:
        conf.write('\nsuppress_warnings = ["myst.xref_missing"]  # pages that are left out\n')
        conf.write(f'if os.environ.get("{STOCK}"):\n    extensions.remove("workercheck")\n')
    return source


def build(env: Path, source: Path, outdir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(env, source, outdir, *options),
        cwd=source.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def command(env: Path, source: Path, outdir: Path, *options: str) -> list[str]:
    return [str(env / "bin" / "sphinx-build"), "-b", "html", *options, str(source), str(outdir)]


@pytest.fixture(scope="module", autouse=True)
def stock(
    env: Path, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A build of the broken release without workercheck, beside the others: it waits a lot."""
    root = tmp_path_factory.mktemp("stock")
    broken = root / "broken"
    environments.install(env, "--no-deps", "--target", broken, BROKEN)
    own = shutil.copytree(source.parents[1], root / "site") / "docs" / "source"
    log = root / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command(env, own, root / "html"),
            cwd=own.parent,
            env=os.environ | {STOCK: "1", "PYTHONPATH": str(broken)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        yield process, log
        process.terminate()


def first_cell_with(page: Path, code: str) -> int:
    """Return the line on which the first cell begins that has this code in it."""
    start = 0
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith("```{code-cell}"):
            start = number
        elif code in line:
            return start
    raise AssertionError(f"{page}: no cell with {code}")


def judge(outdir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, GATE, outdir], capture_output=True, text=True)


def pages(outdir: Path) -> list[dict]:
    return json.loads((outdir / "workercheck" / "report.json").read_text())["pages"]


@pytest.fixture(scope="module")
def outdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all builds of this file go, so that each has the caches of those before it."""
    return tmp_path_factory.mktemp("site") / "html"


# In this order: one release after the other in one environment, over the same caches.


def test_locked_release_is_green_but_for_the_expected_failure(
    env: Path, source: Path, outdir: Path
) -> None:
    done = build(env, source, outdir, "-W", "--keep-going")
    assert 0 == done.returncode, done.stdout
    gate = judge(outdir)
    assert 0 == gate.returncode, gate.stdout + gate.stderr
    findings = [
        (page["docname"], finding["kind"], finding["expected"])
        for page in pages(outdir)
        for finding in page["findings"]
    ]
    assert [("how-to/a-runner-that-fails", "worker-died", True)] * 2 == findings


def test_broken_release_is_red_with_page_line_and_function(
    env: Path, source: Path, outdir: Path
) -> None:
    environments.install(env, "--no-deps", BROKEN)
    done = build(env, source, outdir)
    assert 1 == done.returncode, done.stdout
    gate = judge(outdir)
    assert 1 == gate.returncode, gate.stdout + gate.stderr
    for page in PAGES:
        path = source / f"{page}.md"
        line = first_cell_with(path, "adaptive.Runner(")
        assert re.search(
            rf"{page}\.md:{line}: a worker could not unpickle __main__\.\w+ \(AttributeError: ",
            gate.stdout,
        ), gate.stdout


def test_locked_release_is_green_again_and_nothing_is_executed(
    env: Path, source: Path, outdir: Path
) -> None:
    lock = str(ROOT / "requirements" / "docs.txt")
    environments.install(env, "--require-hashes", "--requirement", lock)
    done = build(env, source, outdir, "-W", "--keep-going")
    assert 0 == done.returncode, done.stdout
    assert 0 == judge(outdir).returncode
    assert [True] * len(PAGES) == [page["cached"] for page in pages(outdir)]
    assert "executing" not in done.stdout


def test_stock_myst_nb_publishes_the_broken_pages_in_green(
    stock: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, log = stock
    status = process.wait()
    told = log.read_text()
    assert 0 == status, told
    assert "module '__main__' has no attribute" in told
    assert "build succeeded" in told
