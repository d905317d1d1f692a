"""Pages on a Dask cluster: a scheduler and two workers, as on machines of their own.

The commands that start it, execute the pages and build the site are those of the page about it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import BROKEN, ROOT, Site
from workercheck.run.environment import environment

distributed = pytest.importorskip("distributed")
if sys.platform == "win32":
    pytest.skip("signals are sent to processes here", allow_module_level=True)

from workercheck.run import over_dask  # noqa: E402 - needs distributed

PATIENCE = 120.0
"""Seconds after which something that must happen has not happened."""

ENVIRON = {
    name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")
} | {
    # A page may lose one worker, and is tried on another one.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"
}


def wait_until(happened: object) -> None:
    assert callable(happened)
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def recipe() -> list[list[str]]:
    """Return the commands of the page: scheduler, worker, execution and build."""
    page = (ROOT / "docs" / "source" / "checking" / "machines.md").read_text()
    section = page.partition("## A Dask cluster\n")[2].partition("\n## ")[0]
    section = section.replace("\\\n", "")  # a command that goes on in the next line
    found = [line.split() for line in re.findall(r"^\$ (.*)", section, re.MULTILINE)]
    assert ["dask", "dask", "workercheck", "sphinx-build"] == [words[0] for words in found]
    return found


SCHEDULER, WORKER, EXECUTE, BUILD = recipe()
ADDRESS = "tcp://scheduler:8786"


@contextlib.contextmanager
def program(folder: Path, *words: str, **variables: str) -> Iterator[psutil.Popen]:
    """Run a program of Dask in a working directory and with temporary files of its own."""
    (folder / "tmp").mkdir(parents=True)
    with (folder / "log").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=ENVIRON | {"TMPDIR": str(folder / "tmp")} | variables,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        below = process.children(recursive=True)
        process.terminate()
        for left in psutil.wait_procs([process, *below], timeout=20)[1]:
            left.kill()


def worker(folder: Path, address: str, **variables: str) -> contextlib.AbstractContextManager:
    words = [address if word == ADDRESS else word for word in WORKER]
    options = ("--no-dashboard", "--local-directory", str(folder / "tmp"))
    return program(folder, *words, *options, **variables)


class Cluster:
    """What the tests know of the cluster."""

    def __init__(self, root: Path, address: str) -> None:
        self.root = root
        self.address = address

    def run(self, site: Site) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command, cwd=site.root, capture_output=True, text=True, check=False
        )

    def execute(self, site: Site, status: int) -> tuple[dict, str]:
        done = self.run(site)
        assert status == done.returncode, done.stdout + done.stderr
        assert (site.root / "report.json").exists(), done.stderr
        report = json.loads((site.root / "report.json").read_text())
        return {page["docname"]: page for page in report["pages"]}, done.stderr

    @property
    def command(self) -> list[str]:
        given = {"docs": "source", ADDRESS: self.address}
        words = [given.get(word, word) for word in EXECUTE]
        return [sys.executable, "-m", *words, "--report", "report.json"]

    def left(self) -> list[str]:
        return [str(path) for path in self.root.glob("worker*/tmp/workercheck-*")]


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[tuple[psutil.Popen, str]]:
    """Run a scheduler; return its process and its address."""
    file = folder / "scheduler.json"
    words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with program(folder, *SCHEDULER, *words) as process:
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        yield process, json.loads(file.read_text())["address"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        _, address = stack.enter_context(scheduler(root / "scheduler"))
        for number in (1, 2):
            stack.enter_context(worker(root / f"worker{number}", address))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE)
        yield Cluster(root, address)


def test_pages_run_on_the_workers_and_a_red_one_runs_once(site: Site, cluster: Cluster) -> None:
    names = "'OMP_NUM_THREADS', 'OPENBLAS_THREAD_TIMEOUT'"
    ends = "import time\ntime.sleep(3)\nopen('threads-ended', 'w').close()"
    site.write("threads", f"import os\nprint(*map(os.environ.get, ({names})))\n{ends}")
    site.write(
        "alone",
        text=(site.write("x", "open('threads-ended').close()").read_text()).replace(
            "kernelspec:", "workercheck: {exclusive: true}\nkernelspec:"
        ),
    )
    (site.source / "x.md").unlink()
    site.write("red", "open('runs', 'a').write('once ')", BROKEN)
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n")
    pages, log = cluster.execute(site, 1)
    assert ["unpickle-task"] == [finding["kind"] for finding in pages["red"]["findings"]]
    assert {"alone", "red", "threads"} == pages.keys()
    assert "once " == (site.source / "runs").read_text()
    assert f"ok  on {os.uname().nodename}" in log
    assert [] == cluster.left()
    (site.source / "red.md").unlink()
    shutil.rmtree(site.root / "html", ignore_errors=True)
    assert ["docs", "html"] == BUILD[-2:]
    build = site.build(*BUILD[1:-2])
    assert 0 == build.status, build.log
    assert [True, True] == [page["cached"] for page in build.report["pages"]]
    # Not what Dask sets, but what pages get that run side by side on one machine.
    assert ">None 4\n" in (build.outdir / "threads.html").read_text()


KILLS_ITS_WORKER = """
import os, pathlib, signal
count = 1 + len(list(pathlib.Path().glob("run-*-of-{0}")))
pathlib.Path(f"run-{{count}}-of-{0}").touch()
if count <= {1}:
    os.kill(os.getppid(), signal.SIGKILL)
"""


def test_page_of_a_lost_worker_is_tried_elsewhere_and_then_it_is_one_finding(
    site: Site, cluster: Cluster
) -> None:
    site.write("index", text="# Index\n")
    site.write("once", KILLS_ITS_WORKER.format("once", 1))
    site.write("other", "print(6 * 7)")
    pages, _ = cluster.execute(site, 0)
    assert 2 == len(list(site.source.glob("run-*-of-once")))
    assert {"once": [], "other": []} == {name: pages[name]["findings"] for name in pages}
    site.write("always", KILLS_ITS_WORKER.format("always", 9))
    pages, _ = cluster.execute(site, 1)
    assert 2 == len(list(site.source.glob("run-*-of-always")))
    assert ["kernel-died"] == [finding["kind"] for finding in pages["always"]["findings"]]
    assert pages["once"]["cached"]
    wait_until(lambda: not cluster.left())


def write_long_page(site: Site) -> Path:
    """Write a page that runs for an hour; return the file to which it writes its kernel's pid."""
    site.write("index", text="# Index\n")
    code = "import os, pathlib, time\npathlib.Path('pid').write_text(f'{os.getpid()} ')\n"
    site.write("long", code + "time.sleep(3600)")
    return site.source / "pid"


def kernel_that_runs(pid: Path) -> psutil.Process:
    """Wait for the kernel of the long page."""
    wait_until(lambda: pid.exists() and pid.read_text().endswith(" "))
    return psutil.Process(int(pid.read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_lost_scheduler_ends_the_command_and_the_pages(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    pid = write_long_page(site)
    with (
        scheduler(tmp_path / "scheduler") as (process, address),
        worker(tmp_path / "worker1", address),
    ):
        own = Cluster(tmp_path, address)
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=PATIENCE)
        with (tmp_path / "log").open("w") as log:
            running = subprocess.Popen(own.command, cwd=site.root, stderr=log)
        try:
            kernel = kernel_that_runs(pid)
            process.send_signal(number)
            assert 2 == running.wait(PATIENCE)
        finally:
            running.kill()
        wait_until(lambda: not kernel.is_running())
        wait_until(lambda: not own.left())
    told = (tmp_path / "log").read_text().splitlines()
    assert "workercheck: the scheduler of the Dask cluster is gone; " in told[-1]


def test_worker_without_the_folder_of_the_pages_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    base = tmp_path / "only-here"  # and there neither
    refused = f"without the folder of the pages, {base}: "
    with (
        contextlib.closing(over_dask.Cluster(cluster.address, base)) as engine,
        pytest.raises(over_dask.ClusterError, match=refused),
    ):
        engine.check(environment(base))
    # It would look for its scheduler for as long as this process lives.
    assert "IO loop" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_command_stops_the_pages(
    site: Site, cluster: Cluster, number: signal.Signals
) -> None:
    pid = write_long_page(site)
    running = subprocess.Popen(cluster.command, cwd=site.root)
    try:
        kernel = kernel_that_runs(pid)
        running.send_signal(number)
        running.wait(PATIENCE)
    finally:
        running.kill()
    wait_until(lambda: not kernel.is_running())
    wait_until(lambda: not cluster.left())


def test_worker_of_another_environment_is_refused(
    site: Site, cluster: Cluster, tmp_path: Path
) -> None:
    site.write("index", text="# Index\n")
    site.write("page", "print(6 * 7)")
    info = tmp_path / "lib" / "numbers_of-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numbers_of\nVersion: 1.0\n")
    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        with worker(tmp_path / "worker", cluster.address, PYTHONPATH=str(info.parent)):
            client.wait_for_workers(3, timeout=PATIENCE)
            done = cluster.run(site)
        wait_until(lambda: len(client.scheduler_info()["workers"]) == 2)
    assert 2 == done.returncode
    assert "(numbers-of 1.0, not absent)" in done.stderr
    assert not list((site.root).glob("store/*/*.run"))
