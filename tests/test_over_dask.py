"""Pages on a Dask cluster: a scheduler and two workers, as on machines of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import BROKEN, Site

distributed = pytest.importorskip("distributed")
if sys.platform == "win32":
    pytest.skip("signals are sent to processes here", allow_module_level=True)

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
    words = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(folder / "tmp"))
    return program(folder, "distributed.cli.dask_worker", address, *words, **variables)


class Cluster:
    """What the tests know of the cluster."""

    def __init__(self, root: Path, address: str) -> None:
        self.root = root
        self.address = address

    def run(self, site: Site) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, str(site.source)],
            cwd=site.root,
            capture_output=True,
            text=True,
            check=False,
        )

    def execute(self, site: Site, status: int) -> tuple[dict, str]:
        done = self.run(site)
        assert status == done.returncode, done.stdout + done.stderr
        assert (site.root / "report.json").exists(), done.stderr
        report = json.loads((site.root / "report.json").read_text())
        return {page["docname"]: page for page in report["pages"]}, done.stderr

    @property
    def command(self) -> list[str]:
        options = ["--store", "store", "--report", "report.json", "--dask", self.address]
        return [sys.executable, "-m", "workercheck", "execute", *options]

    def left(self) -> list[str]:
        return [str(path) for path in self.root.glob("worker*/tmp/workercheck-*")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("cluster")
    file = root / "scheduler.json"
    words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with contextlib.ExitStack() as stack:
        stack.enter_context(program(root / "scheduler", "distributed.cli.dask_scheduler", *words))
        wait_until(file.exists)
        address = json.loads(file.read_text())["address"]
        for number in (1, 2):
            stack.enter_context(worker(root / f"worker{number}", address))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE)
        yield Cluster(root, address)


def test_pages_run_on_the_workers_and_a_red_one_runs_once(site: Site, cluster: Cluster) -> None:
    site.write("threads", "import os\nprint(os.environ.get('OMP_NUM_THREADS'))")
    site.write(
        "alone",
        text=(site.write("x", "print(6 * 7)").read_text()).replace(
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
    build = site.build("-D", "workercheck_store=store")
    assert 0 == build.status, build.log
    assert [True, True] == [page["cached"] for page in build.report["pages"]]
    assert ">None\n" in (build.outdir / "threads.html").read_text()


KILLS_ITS_WORKER = """
import os, pathlib, signal
runs = pathlib.Path("runs-of-{0}")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
if len(runs.read_text()) <= {1}:
    os.kill(os.getppid(), signal.SIGKILL)
"""


def test_page_of_a_lost_worker_is_tried_elsewhere_and_then_it_is_one_finding(
    site: Site, cluster: Cluster
) -> None:
    site.write("index", text="# Index\n")
    site.write("once", KILLS_ITS_WORKER.format("once", 1))
    pages, _ = cluster.execute(site, 0)
    assert "xx" == (site.source / "runs-of-once").read_text()
    assert [] == pages["once"]["findings"]
    site.write("always", KILLS_ITS_WORKER.format("always", 9))
    pages, _ = cluster.execute(site, 1)
    assert "xx" == (site.source / "runs-of-always").read_text()
    assert ["kernel-died"] == [finding["kind"] for finding in pages["always"]["findings"]]
    assert pages["once"]["cached"]
    wait_until(lambda: not cluster.left())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_command_stops_the_pages(
    site: Site, cluster: Cluster, number: signal.Signals
) -> None:
    site.write("index", text="# Index\n")
    code = "import os, pathlib, time\npathlib.Path('pid').write_text(f'{os.getpid()} ')\n"
    site.write("long", code + "time.sleep(3600)")
    pid = site.source / "pid"
    running = subprocess.Popen([*cluster.command, str(site.source)], cwd=site.root)
    try:
        wait_until(lambda: pid.exists() and pid.read_text().endswith(" "))
        kernel = psutil.Process(int(pid.read_text()))
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
