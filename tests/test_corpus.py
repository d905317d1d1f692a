"""Every page of ``faults/`` gives exactly the findings in its front matter, ``healthy/`` none.

Adding a case is adding a file.
"""

from __future__ import annotations

import collections
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import FAULTS, HEADER, HEALTHY, ROOT, Build, Site, front_matter
from packaging.specifiers import SpecifierSet

if TYPE_CHECKING:
    from collections.abc import Iterable


def runs_here(path: Path) -> bool:
    """Whether the page is for this Python: what it is about may not be there on another."""
    here = ".".join(map(str, sys.version_info[:2]))
    return here in SpecifierSet(front_matter(path).get("python", ""))


EXECUTORS = (
    ("adaptive", "adaptive"),
    ("anyio", "anyio"),
    ("asyncio", "asyncio"),
    ("billiard", "billiard"),
    ("connection", "Pipe"),
    ("dask", "dask.distributed"),
    ("executorlib", "executorlib"),
    ("interpreter-pool", "InterpreterPoolExecutor"),
    ("ipyparallel", "ipyparallel"),
    ("joblib", "joblib"),
    ("loky", "loky"),
    ("manager", "Manager"),
    ("mpire", "mpire"),
    ("mpi", "mpi4py.futures"),
    ("multiprocess", "multiprocess"),
    ("parsl", "parsl"),
    ("pathos", "pathos"),
    ("pebble", "pebble"),
    ("process-pool", "ProcessPoolExecutor"),
    ("pool", "Pool"),
    ("process", "Process"),
    ("queue", "Queue"),
    ("ray", "ray"),
    ("thread-pool", "ThreadPoolExecutor"),
)


def executor(path: Path) -> str:
    """The executor that a page of the corpus is about, by the beginning of its name."""
    return next((name for prefix, name in EXECUTORS if path.stem.startswith(prefix)), "others")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Build:
    """All pages in one build, as a project would have them; or those that are asked for by name."""
    items = [item for item in request.session.items if item.path == request.path]
    asked = {getattr(item, "callspec", None) and item.callspec.params["path"] for item in items}
    pages = [path for path in (*FAULTS, *HEALTHY) if None in asked or path in asked]
    return build(tmp_path_factory.mktemp("corpus"), filter(runs_here, pages))


def build(root: Path, pages: Iterable[Path]) -> Build:
    site = Site(root)
    # Most of a page's time here is waiting: for a kernel to start, for a pool to go.
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\nworkercheck_jobs = 4\nnb_merge_streams = True\n'
    )
    for path in pages:
        target = site.source / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\nfaults/*\nhealthy/*\n```\n")
    return site.build()


@pytest.fixture
def page(
    request: pytest.FixtureRequest, path: Path, tmp_path: Path, record_property
) -> dict[str, Any]:
    """What the build of all pages says of the page; at a rerun of the test, a build of it alone."""
    record_property("executor", executor(path))
    if not runs_here(path):
        pytest.skip("not on this Python")
    again = getattr(request.node, "execution_count", 1) > 1
    made = build(tmp_path, [path]) if again else request.getfixturevalue("built")
    return made.page(f"{path.parent.name}/{path.stem}")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("path", FAULTS, ids=[path.stem for path in FAULTS])
def test_fault_is_found(page: dict[str, Any], path: Path) -> None:
    wanted = front_matter(path)["expect"]
    expected = collections.Counter((f["kind"], f["line"], f.get("expected", False)) for f in wanted)
    found = collections.Counter((f["kind"], f["line"], f["expected"]) for f in page["findings"])
    assert expected == found, page["findings"]
    # A page whose object is not the point does not name it.
    objects = {(f["kind"], f["line"], f["object"]) for f in page["findings"]}
    assert {(f["kind"], f["line"], f["object"]) for f in wanted if "object" in f} <= objects
    for finding in wanted:
        if "hint" in finding:
            hints = [f["hint"] for f in page["findings"] if f["line"] == finding["line"]]
            assert any(finding["hint"] in hint for hint in hints), hints


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("path", HEALTHY, ids=[path.stem for path in HEALTHY])
def test_healthy_page_is_not_accused(page: dict[str, Any], path: Path) -> None:
    assert ([], True) == (page["findings"], page["executed"])


REPORTED = [path for path in (*FAULTS, *HEALTHY) if "executors" in front_matter(path)]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("path", REPORTED, ids=[path.stem for path in REPORTED])
def test_report_lists_each_executor_with_its_workers(built: Build, path: Path) -> None:
    if not runs_here(path):
        pytest.skip("not on this Python")
    page = built.page(f"{path.parent.name}/{path.stem}")
    expected = front_matter(path)
    assert expected["executors"] == page["executors"]
    # How often a broken pool starts its workers anew is its own affair.
    if "started" in expected:
        assert (expected["started"], sum(expected["started"].values())) == (
            page["started"],
            page["workers"],
        )


@pytest.mark.timeout(1500)
def test_build_with_faults_fails_after_all_pages_ran(built: Build) -> None:
    assert 1 == built.status
    assert sum(map(runs_here, [*FAULTS, *HEALTHY])) == len(built.report["pages"])
    assert 1 == built.log.count("ERROR: workercheck:")


@pytest.mark.timeout(1500)
def test_no_page_waits_for_its_timeout(built: Build) -> None:
    seconds = {
        page["docname"]: page["seconds"]
        for page in built.report["pages"]
        if not page["docname"].startswith(("faults/ipyparallel", "faults/ray"))
        and any(f["kind"].startswith(("unpickle", "worker")) for f in page["findings"])
    }
    # The default limit of a cell is 30 s; a start of a kernel and of a pool are in it.
    assert {} == {name: spent for name, spent in seconds.items() if spent > 25}


def outputs(html: str) -> list[str]:
    return re.findall(r'<div class="cell_output.*?</div>\s*</div>', html, re.DOTALL)


PIECES = ("subprocess",)
"""Pages whose programs write past Python: ipykernel may put empty lines between the pieces."""

LOGS = ("dask", "pebble")
"""Libraries that write to the log when a busy machine is late: a build may have it or not."""

RACES = ("mpire",)
"""Libraries that, on a busy machine, may take a worker that has just finished for dead."""


PIDS = ("ray",)
"""Libraries that print the pids of their workers, and the time."""


def without_logs(name: str, found: list[str]) -> list[str]:
    """Return the outputs of a page that do not depend on how busy the machine is."""
    if name.startswith(PIECES):
        return [re.sub(r"\n+", "\n", output) for output in found]
    if not name.startswith(LOGS):
        return found
    return re.findall(r'<div class="output stream.*?</pre>', "".join(found), re.DOTALL)


# The ports that the system gives out are those of everybody's connections: of so many kernels at
# once, one finds its own taken when it listens there, and stock waits for it for a minute.
PORTS = """
import random, socket
from jupyter_client.connect import LocalPortCache

def find_available_port(self, ip):
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as sock:
            try:
                sock.bind((ip, port))
            except OSError:
                continue
            return port

LocalPortCache.find_available_port = find_available_port
"""


def shown(folder: Path, pages: list[Path]) -> dict[str, list[str]]:
    """Return the outputs of each page, from a folder of built pages."""
    html = {path.stem: (folder / f"{path.stem}.html").read_text() for path in pages}
    return {name: without_logs(name, outputs(text)) for name, text in html.items()}


def shown_by_stock(root: Path, pages: list[Path]) -> dict[str, list[str]]:
    """Return the outputs of each page in a build without workercheck."""
    site = Site(root / "stock")
    site.conf(
        f'{PORTS}\nextensions = ["myst_nb"]\nnb_execution_mode = "force"\n'
        "nb_execution_allow_errors = True\nnb_merge_streams = True\n"
    )
    for path in pages:
        shutil.copy(path, site.source)
    stock = site.build("-j", "4")
    assert 0 == stock.status, stock.log
    return shown(stock.outdir, pages)


STOCK = ROOT / "tests" / "stock.json"
"""By the name of a healthy page, the `digest` of what it shows under stock myst-nb."""


def digest(page: Path, found: list[str]) -> str:
    """Return the SHA-256 of the version of Python, the text of a page, and its outputs."""
    parts = [*sys.version_info[:2], page.read_text(), found]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_page_shows_the_same_with_the_recorder_and_without(
    built: Build, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Stock myst-nb executes each page whose outputs are not those of its recorded run."""
    differ = (*RACES, *PIDS)
    pages = [path for path in HEALTHY if runs_here(path) and not path.stem.startswith(differ)]
    ours = shown(built.outdir / "healthy", pages)
    assert sum(map(len, ours.values())) > 20
    record = pytestconfig.getoption("record_stock")
    recorded = {} if record else json.loads(STOCK.read_text())
    pages = [path for path in pages if recorded.get(path.stem) != digest(path, ours[path.stem])]
    if not pages:
        return
    expected = shown_by_stock(tmp_path, pages)
    assert expected == {name: ours[name] for name in expected}
    if record:
        digests = {path.stem: digest(path, expected[path.stem]) for path in pages}
        STOCK.write_text(json.dumps(digests, indent=0, sort_keys=True) + "\n")


def test_page_that_shows_the_recorder_differs(tmp_path: Path) -> None:
    page = tmp_path / "healthy" / "shows-the-recorder.md"
    page.parent.mkdir()
    cell = 'import os\nprint("WORKERCHECK_EVIDENCE" in os.environ)'
    page.write_text(f"{HEADER}# Environment\n\n```{{code-cell}}\n{cell}\n```\n")
    ours = shown(build(tmp_path / "ours", [page]).outdir / "healthy", [page])
    stock = shown_by_stock(tmp_path, [page])
    assert ["True"] == re.findall("True|False", str(ours))
    assert ["False"] == re.findall("True|False", str(stock))
    assert digest(page, ours[page.stem]) != digest(page, stock[page.stem])
