"""What the tests share: real builds of small sites, with the interpreter that runs the tests."""

from __future__ import annotations

import dataclasses as dc
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import hypothesis
import pytest
import yaml
from preloaded import Preloaded
from workercheck.evidence import records as ev

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whoever runs the tests in the background has SIGINT ignored, and what they start would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine of a CI may stand still for longer than any example of a property takes.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).parent.parent
FAULTS = sorted((ROOT / "tests" / "faults").glob("*.md"))
HEALTHY = sorted((ROOT / "tests" / "healthy").glob("*.md"))
GATE = ROOT / "tools" / "check_workers.py"
CODE_CELL = re.compile(
    r"^(?P<fence>`{3,})\{code-cell\}.*\n(?P<header>---\n(?:.*\n)*?---\n)?"
    r"(?P<options>(?::.*\n)*)(?P<code>(?:.*\n)*?)(?P=fence)$",
    re.MULTILINE,
)
"""A code cell in the source of a page."""
HEADER = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n"

# Cells: one whose worker fails and nobody looks, and one that passes.
# The default start method would do on 3.14, but not before.
BROKEN = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def area(x):
    return x * x

context = multiprocessing.get_context("forkserver")
with ProcessPoolExecutor(1, mp_context=context) as executor:
    future = executor.submit(area, 2)
"""
PASSES = "print(6 * 7)"


def front_matter(path: Path) -> dict[str, Any]:
    """Return the header of a page."""
    return yaml.safe_load(path.read_text().split("---\n")[1])


@dc.dataclass
class Build:
    """A finished ``sphinx-build``."""

    outdir: Path
    status: int
    log: str
    seconds: float

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.outdir / "workercheck" / "report.json").read_text())

    def page(self, docname: str) -> dict[str, Any]:
        return next(page for page in self.report["pages"] if page["docname"] == docname)

    def findings(self, docname: str) -> list[tuple[str, int]]:
        return [(f["kind"], f["line"]) for f in self.page(docname)["findings"]]


@dc.dataclass
class Site:
    """A folder with ``conf.py`` and pages, as another project would have it."""

    root: Path
    preloaded: Preloaded | None = None
    """Builds with it where no variables of the environment are given: those bear on imports."""

    def __post_init__(self) -> None:
        self.source.mkdir(parents=True)
        self.conf('extensions = ["myst_nb", "workercheck"]\n')

    @property
    def source(self) -> Path:
        return self.root / "source"

    def conf(self, text: str) -> None:
        (self.source / "conf.py").write_text(text)

    def write(self, docname: str, *cells: str, tags: str = "", text: str | None = None) -> Path:
        """Write a page: its cells, or its whole *text*. The first code cell is on line 9."""
        path = self.source / f"{docname}.md"
        if text is None:
            option = f":tags: [{tags}]\n" if tags else ""
            blocks = [f"```{{code-cell}}\n{option}{cell.strip()}\n```\n" for cell in cells]
            text = HEADER + f"# {docname}\n\n" + "\n".join(blocks)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def build(self, *options: str, env: dict[str, str] | None = None) -> Build:
        outdir = self.root / "html"
        if not (self.source / "index.md").exists():
            self.write("index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n")
        started = time.monotonic()
        arguments = ["-b", "html", *options, "source", "html"]
        if self.preloaded is not None and env is None:
            status, log = self.preloaded.build(arguments, self.root)
            return Build(outdir, status, log, time.monotonic() - started)
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", *arguments],
            cwd=self.root,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            check=False,
        )
        return Build(outdir, done.returncode, done.stdout, time.monotonic() - started)


def started(pid: int, ppid: int, *argv: str) -> ev.ProcessStarted:
    """Return the event of a process that began with this command."""
    return ev.ProcessStarted(
        pid=pid,
        time=1.0,
        ppid=ppid,
        group=7,
        argv=list(argv),
        python="3.14.0",
        executable="python",
        forked=False,
    )


def gate(
    outdir: Path, *options: str, stdout: int | IO[bytes] = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Judge a build with nothing but an interpreter, isolated from the tests' environment."""
    return subprocess.run(
        [sys.executable, "-S", str(GATE), str(outdir), *options],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-stock",
        action="store_true",
        help="execute all healthy pages with stock myst-nb, and record in tests/stock.json what "
        "they show: a page that shows the same with the recorder need not be executed twice",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold a slow test."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many pages of the corpus were judged rightly, executor by executor, and figures."""
    counts: dict[str, dict[str, int]] = {}
    for test in terminalreporter.stats.get("passed", ()):
        for name, figure in getattr(test, "user_properties", ()):
            if name == "figure" and test.when == "call":
                terminalreporter.write_line(figure)
    for outcome in ("passed", "failed"):
        for test in terminalreporter.stats.get(outcome, ()):
            executor = dict(getattr(test, "user_properties", ())).get("executor")
            if executor is not None and test.when == "call":
                row = counts.setdefault(executor, {"passed": 0, "failed": 0})
                row[outcome] += 1
    if counts:
        terminalreporter.section("corpus: pages judged rightly")
        for executor, row in sorted(counts.items()):
            total = row["passed"] + row["failed"]
            terminalreporter.write_line(f"{executor:24} {row['passed']:3} of {total}")


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded | None]:
    """A process that has imported Sphinx; None where there is no Linux."""
    process = Preloaded() if sys.platform == "linux" else None
    yield process
    if process is not None:
        process.close()


@pytest.fixture
def site(tmp_path: Path, preloaded: Preloaded | None) -> Site:
    """An empty site."""
    return Site(tmp_path, preloaded)
