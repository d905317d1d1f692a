"""Running pages: nothing hangs, nothing is left behind, nothing harms the page."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from conftest import BROKEN, PASSES, Site, gate


def processes_below(folder: Path) -> list[psutil.Process]:
    """Return the processes whose evidence is in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            evidence = process.environ().get("WORKERCHECK_EVIDENCE", "")
            if evidence.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_signal_ends_every_process_and_the_next_build_is_right(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    site.write("quick", "print(6 * 7)")
    slow = site.write(
        "slow",
        "import subprocess, sys, time, loky\n"
        "child = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(child, start_new_session=True)\n"
        "executor = loky.get_reusable_executor(max_workers=1)\n"
        "executor.submit(abs, -1).result()\n"
        "executor.submit(time.sleep, 600)\n"
        "open('started', 'w').close()\n"
        "time.sleep(600)",
    )
    site.write("index", text="# Index\n\n```{toctree}\nquick\nslow\n```\n")
    build = subprocess.Popen(
        ["sphinx-build", "-b", "html", "-q", "-D", "nb_execution_timeout=600", "source", "html"],
        executable=Path(sys.executable).with_name("sphinx-build"),
        cwd=site.root,
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (site.source / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(processes_below(temporary)) >= 4
        build.send_signal(number)
        _, told = build.communicate(timeout=15)
        assert 0 != build.returncode
        assert [] == processes_below(temporary)
    finally:
        build.kill()
        for process in processes_below(temporary):
            process.kill()
    assert "the build did not finish: it was interrupted" in told
    assert 2 == gate(site.root / "html").returncode
    slow.write_text(slow.read_text().replace("600", "0"))
    after = site.build()
    assert 0 == after.status, after.log


STALLS = """
import multiprocessing, pathlib, time
extensions = ["myst_nb", "workercheck"]

def stall(app, *arguments):
    if app.parallel > 1 and multiprocessing.parent_process() is None:
        return  # the processes of Sphinx are meant
    pathlib.Path("stalls").touch()
    time.sleep(600)

def setup(app):
    app.connect({event!r}, stall, priority=100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize(
    ("event", "jobs", "findings"),
    [
        ("env-get-outdated", "1", []),
        ("doctree-read", "1", ["cell-error"]),
        ("doctree-read", "2", ["cell-error"]),
        ("html-page-context", "1", ["cell-error"]),
        ("html-page-context", "2", ["cell-error"]),
    ],
    ids=["before pages run", "reads", "reads in parallel", "writes", "writes in parallel"],
)
def test_build_that_is_stopped_before_or_after_its_pages_ran_tells_what_it_found(
    site: Site, tmp_path: Path, event: str, jobs: str, findings: list[str], number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    site.conf(STALLS.format(event=event))
    site.write("page", "1 / 0")
    for name in "abcdefg":  # Sphinx reads and writes more than five in parallel
        site.write(name, text=f"# {name}\n")
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n")
    build = subprocess.Popen(
        [sys.executable, "-m", "sphinx", "-q", "-j", jobs, "-b", "html", "source", "html"],
        cwd=site.root,
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (site.root / "stalls").exists():
            assert build.poll() is None, build.communicate()
            time.sleep(0.05)
        started = psutil.Process(build.pid).children(recursive=True)
        assert bool(started) == (jobs == "2")
        build.send_signal(number)
        _, told = build.communicate(timeout=30)
    finally:
        build.kill()
    _, left = psutil.wait_procs(started, timeout=30)
    assert ([], []) == (left, list(temporary.iterdir()))
    assert 2 == build.returncode
    assert 1 == told.count("the build did not finish: it was interrupted")
    report = json.loads((site.root / "html" / "workercheck" / "report.json").read_text())
    assert findings == [f["kind"] for page in report["pages"] for f in page["findings"]]


def test_build_leaves_the_program_around_it_its_handler_of_sigterm(site: Site) -> None:
    site.write("page", PASSES)
    site.write("index", text="# Index\n\n```{toctree}\npage\n```\n")
    code = """
import os, signal, sys
from sphinx.cmd.build import main
own = signal.SIG_DFL if sys.argv[1:] else lambda number, frame: None
signal.signal(signal.SIGTERM, own)
assert 0 == main(["-q", "-E", "-b", "html", "source", "html"])
assert signal.getsignal(signal.SIGTERM) is own
"""
    for arguments in ([], ["default"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=site.root, capture_output=True, text=True
        )
        assert 0 == done.returncode, done.stderr


CLOCKED = {
    "lost": BROKEN,
    "killed": """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor

context = multiprocessing.get_context("forkserver")
with ProcessPoolExecutor(1, mp_context=context) as executor:
    executor.submit(time.sleep, 0.7).result()
    future = executor.submit(os._exit, 0)
""",
    "unseen": """
import time, loky
future = loky.get_reusable_executor(max_workers=1).submit(divmod, 1, 0)
time.sleep(0.7)
""",
    "left": """
import subprocess, time
time.sleep(0.7)
process = subprocess.Popen(["sleep", "600"], start_new_session=True)
""",
    "healthy": """
import loky, time
before = now = time.time()
deadline = time.monotonic() + 20
while now > before - 1000 and time.monotonic() < deadline:
    loky.get_reusable_executor(max_workers=1).submit(time.sleep, 0.1).result()
    before, now = now, time.time()
assert now < before, "the clock was never set back"
""",
}


@pytest.fixture
def stepping_clock(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables with which programs see a clock on the wall that steps by an hour, back and forth.

    The clocks that count from the start of the machine run on as they are.
    """
    files = metadata.files("libfaketime") or ()
    library = next(file.locate() for file in files if file.name == "libfaketime.so.1")
    offset, new = tmp_path / "offset", tmp_path / "new"
    offset.write_text("+0\n")
    over = threading.Event()

    def step() -> None:
        for hours in itertools.cycle([-1, 0]):
            if over.wait(1.3):
                return
            new.write_text(f"{hours:+}h\n")
            new.replace(offset)

    thread = threading.Thread(target=step)
    thread.start()
    yield {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    over.set()
    thread.join()


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="libfaketime is for these"
)
def test_clock_that_is_set_back_and_forth_misleads_no_build(
    site: Site, stepping_clock: dict[str, str]
) -> None:
    for name, cell in CLOCKED.items():
        site.write(name, cell)
    build = site.build(env=stepping_clock)
    assert {
        "lost": [("unpickle-task", 9)],
        "killed": [("worker-died", 9)],
        "unseen": [("unseen-failure", 9)],
        "left": [("leftover-process", 9)],
        "healthy": [],
    } == {name: build.findings(name) for name in CLOCKED}, build.log
    for name in CLOCKED.keys() - {"healthy"}:
        (site.source / f"{name}.md").unlink()
    build = site.build("-E", env=stepping_clock)
    assert 0 == build.status, build.log
    assert build.page("healthy")["cached"]


HOSTILE = r"""
class Odd(Exception):
    pass

text = "\x1b[31mred\x1b[0m\n::error file=x::gotcha\r<script>alert(1)</script>%0A\ud800"
raise Odd(text + "x" * 3_000_000)
"""


def test_hostile_text_is_escaped_and_cut_in_every_report(site: Site) -> None:
    site.write("page", HOSTILE)
    build = site.build()
    assert [("cell-error", 9)] == build.findings("page")
    (finding,) = build.page("page")["findings"]
    assert len(finding["message"]) < 500
    assert finding["message"].isprintable()
    for report in ("text", "json", "junit", "github"):
        done = gate(build.outdir, "--format", report)
        assert 1 == done.returncode, done.stderr
        assert "\x1b" not in done.stdout
        assert not re.search(r"^::error file=x", done.stdout, re.MULTILINE)
        assert len(done.stdout) < 20_000
    ElementTree.fromstring(gate(build.outdir, "--format", "junit").stdout)


def test_page_that_waits_for_lost_work_is_stopped_within_seconds(site: Site) -> None:
    site.write(
        "page",
        "import multiprocessing\ndef area(x):\n    return x\n"
        "multiprocessing.get_context('spawn').Pool(1).apply(area, (2,))",
    )
    build = site.build("-D", "nb_execution_timeout=600")
    assert [("unpickle-task", 9)] == build.findings("page")
    # A kernel's start is in it; the issue allows ten seconds from the failure on.
    assert build.page("page")["seconds"] < 20


def test_one_dead_kernel_is_one_finding_and_the_others_go_on(site: Site) -> None:
    site.write("dead", "import os\nos._exit(1)")
    site.write("alive", "print(6 * 7)")
    build = site.build()
    assert [("kernel-died", 9)] == build.findings("dead")
    assert [] == build.findings("alive")


TAKEN = """
import socket
from jupyter_client.connect import LocalPortCache

taken = socket.create_server(("127.0.0.1", 0))
LocalPortCache.find_available_port = lambda self, ip: taken.getsockname()[1]
extensions = ["myst_nb", "workercheck"]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kernels listen on ports elsewhere")
def test_kernel_starts_when_another_program_takes_the_port_it_was_to_have(
    site: Site, tmp_path: Path
) -> None:
    temporary = tmp_path / ("long-" * 20)  # no path of a socket may be as long
    temporary.mkdir()
    site.conf(TAKEN)
    site.write("page", "print(6 * 7)")
    build = site.build(env={"TMPDIR": str(temporary)})
    assert 0 == build.status, build.log


def test_kernel_that_does_not_start_says_why(site: Site, tmp_path: Path) -> None:
    kernel = tmp_path / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-c", "raise SystemExit('no room on this ship')"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    site.write("page", "print(6 * 7)")
    build = site.build(env={"JUPYTER_PATH": str(tmp_path / "share")})
    assert [("kernel-died", 9)] == build.findings("page")
    assert "no room on this ship" in build.page("page")["findings"][0]["message"]


def test_report_is_whole_or_absent(site: Site) -> None:
    site.write("page", "print(6 * 7)")
    build = site.build()
    written = sorted(path.name for path in (build.outdir / "workercheck").iterdir())
    assert ["report.html", "report.json"] == written
    assert 1 == json.loads((build.outdir / "workercheck" / "report.json").read_text())["schema"]
