"""``workercheck run -- COMMAND``: what it finds, its exit status, and that nothing stays behind."""

from __future__ import annotations

import dataclasses as dc
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import started
from workercheck.judge.finding import Finding
from workercheck.report import command as report_of
from workercheck.report import record
from workercheck.report.record import PageReport, Report

LOST = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def area(x):
    return x * missing

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        future = executor.submit(area, 2)
"""
SWALLOWED = """
from concurrent.futures import ProcessPoolExecutor

class Fragile:
    def __reduce__(self):
        return int, ("no number",)

def length(thing):
    return 1

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        try:
            executor.submit(length, Fragile()).result()
        except Exception:
            pass
"""
ENDED_BY_WORK = """
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait

def inverse(x):
    return 1 / x

if __name__ == "__main__":
    executor = ThreadPoolExecutor(1)
    first = executor.submit(inverse, 0)
    second = executor.submit(inverse, "0")
    with ProcessPoolExecutor(1) as processes:
        third = processes.submit(inverse, "0")
    wait([first, second])
    first.result()
    second.result()
    third.result()
"""
ENDED_BY_ERROR = ENDED_BY_WORK.replace("first.result()", "inverse('0')")
DROPPED_BEFORE_THE_END = ENDED_BY_WORK.replace("third = ", "").replace("    third.result()\n", "")
HEALTHY = """
import sys
from concurrent.futures import ProcessPoolExecutor

def square(x):
    return x * x

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        print(list(executor.map(square, range(3))), sys.stdin.read())
"""
OF_ANOTHER_PROGRAM = """
import subprocess, sys
subprocess.run([sys.executable, "lost.py"], check=True)
"""
POOL_DROPPED = """
import multiprocessing

def divide(x):
    return 1 / x

if __name__ == "__main__":
    pool = multiprocessing.Pool(1)
    pool.apply_async(divide, (0,))
"""
TASK_DROPPED = """
import asyncio

async def divide(x):
    return 1 / x

async def main():
    task = asyncio.create_task(divide(0))
    await asyncio.sleep(0.01)

asyncio.run(main())
"""
LOOP_CLOSED = """
import asyncio
import time
from concurrent.futures import ProcessPoolExecutor

def divide(x):
    time.sleep(0.5)
    return 1 / x

async def drop(executor):
    asyncio.get_running_loop().run_in_executor(executor, divide, 0)

async def give_up(executor):
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(
        asyncio.wait_for(loop.run_in_executor(executor, divide, 0), 0.01)
    )
    await asyncio.wait([waiting])
    assert waiting.exception()

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        asyncio.run(drop(executor))
        asyncio.run(give_up(executor))
"""
FAILS = """
raise SystemExit(7)
"""
DIES = """
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
"""
LEAVES = """
import subprocess, sys
code = "import time; time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
"""
RESPAWNS = """
import multiprocessing

def prepare():
    raise RuntimeError("not today")

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, initializer=prepare) as pool:
        pool.map(abs, [1])
"""
RESPAWNS_MUTE = """
import multiprocessing
import os
import sys

def prepare():
    sys.stderr.close()
    os.close(2)
    raise RuntimeError("nowhere to say it")

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, initializer=prepare) as pool:
        pool.map(abs, [1])
"""
MANY_POOLS = """
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

if __name__ == "__main__":
    for number in range(25):
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
            try:
                executor.submit(os._exit, 3).result()
            except BrokenProcessPool:
                print(number)
"""
INTERPRETERS = """
from concurrent import interpreters

def triple(x):
    return 3 * x

def triple_again(x):
    return triple(x)

if __name__ == "__main__":
    interpreter = interpreters.create()
    print(interpreter.call(triple, 2), interpreter.call(triple_again, 3))
    interpreter.close()
"""
INTERPRETERS_LOST = """
from concurrent import interpreters

def triple(x):
    return 3 * x

if __name__ == "__main__":
    def late(x):
        return triple(x)

    interpreter = interpreters.create()
    try:
        interpreter.call(late, 3)
    except interpreters.NotShareableError:
        pass
    interpreter.close()
"""
LATE = """
import multiprocessing

class Late:
    def __init__(self):
        self.ends = multiprocessing.Pipe()
        self.ends[1].send("early")
        self.itself = self

    def __reduce__(self):
        raise TypeError("too late")

    def __del__(self):
        try:
            self.ends[1].send(self)
        except TypeError:
            pass

if __name__ == "__main__":
    late = Late()
"""
WAITS = """
import multiprocessing

class Fragile:
    def __reduce__(self):
        return int, ("no number",)

if __name__ == "__main__":
    with multiprocessing.Pool(1) as pool:
        pool.map(print, [Fragile()])
"""
CANNOT_IMPORT = """
import sys
from concurrent.futures import ProcessPoolExecutor

class Finder:
    def find_spec(self, name, path, target=None):
        if name.startswith("workercheck"):
            raise ImportError(name)

if __name__ == "__main__":
    sys.meta_path.insert(0, Finder())
    with ProcessPoolExecutor(1) as executor:
        print(executor.submit(abs, -1).result())
"""
UNWATCHED = """
pass
"""
STARTS_UNWATCHED = """
import subprocess
import sys

subprocess.run([sys.executable, "-S", "-c", ""])
"""
SCRIPTS = {
    name.lower(): code.lstrip()
    for name, code in list(globals().items())
    if name.isupper() and isinstance(code, str)
}
HAS_INTERPRETERS = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="concurrent.interpreters is new in Python 3.14"
)
OPTIONS = {"unwatched": ["-S"]}


@dc.dataclass
class Watched:
    status: int
    out: str
    err: str
    report: dict[str, Any]

    @property
    def found(self) -> list[tuple[str, str, int]]:
        return [
            (page["docname"], finding["kind"], finding["line"])
            for page in self.report["pages"]
            for finding in page["findings"]
        ]


def watch(folder: Path, name: str, *command: str, options: tuple[str, ...] = ()) -> Watched:
    report = folder / f"{name}.json"
    done = subprocess.run(
        [sys.executable, "-m", "workercheck", "run", "--report", report, *options, "--", *command],
        cwd=folder,
        input="said",
        capture_output=True,
        text=True,
        check=False,
    )
    return Watched(done.returncode, done.stdout, done.stderr, json.loads(report.read_text()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for name, code in SCRIPTS.items():
        (folder / f"{name}.py").write_text(code)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Watched]:
    """Every script, watched; most of the time is spent waiting for processes."""

    def run(name: str) -> Watched:
        return watch(folder, name, sys.executable, *OPTIONS.get(name, ()), f"{name}.py")

    with ThreadPoolExecutor(3) as executor:
        return dict(zip(SCRIPTS, executor.map(run, SCRIPTS), strict=True))


@pytest.mark.parametrize(
    ("name", "status", "found"),
    [
        ("lost", 1, [("lost.py", "unseen-failure", 9)]),
        ("swallowed", 1, [("swallowed.py", "unpickle-task", 13)]),
        ("healthy", 0, []),
        ("of_another_program", 1, [("lost.py", "unseen-failure", 9)]),
        ("pool_dropped", 1, [("pool_dropped.py", "unseen-failure", 8)]),
        ("task_dropped", 1, [("task_dropped.py", "unseen-failure", 7)]),
        ("loop_closed", 1, [("loop_closed.py", "unseen-failure", 10)]),
        ("ended_by_work", 1, []),
        ("ended_by_error", 1, [("ended_by_error.py", "unseen-failure", n) for n in (8, 9, 11)]),
        ("dropped_before_the_end", 1, [("dropped_before_the_end.py", "unseen-failure", 11)]),
        ("fails", 7, []),
        ("dies", 128 + signal.SIGTERM, []),
        ("starts_unwatched", 1, [("starts_unwatched.py", "not-watched", 4)]),
        ("leaves", 1, [("leaves.py", "leftover-process", 3)]),
        ("respawns", 1, [("respawns.py", "worker-died", 8)]),
        ("respawns_mute", 1, [("respawns_mute.py", "worker-died", 12)]),
        ("many_pools", 1, [("many_pools.py", "worker-died", 10)]),
        ("late", 0, []),
        pytest.param("interpreters", 0, [], marks=HAS_INTERPRETERS),
        pytest.param(
            "interpreters_lost",
            1,
            [("interpreters_lost.py", "unpickle-task", 12)],
            marks=HAS_INTERPRETERS,
        ),
        ("waits", 1, [("waits.py", "unpickle-task", 9)]),
    ],
)
def test_command_is_judged(
    runs: dict[str, Watched], name: str, status: int, found: list[tuple[str, str, int]]
) -> None:
    run = runs[name]
    assert (status, found) == (run.status, run.found), run.err
    assert ("fail" if found else "pass") == run.report["verdict"]
    for docname, kind, line in found:
        assert f"{docname}:{line}: " in run.err
        assert f"[{kind}]" in run.err


def test_streams_are_those_of_the_command(runs: dict[str, Watched]) -> None:
    assert "[0, 1, 4] said\n" == runs["healthy"].out


def test_report_of_a_command(runs: dict[str, Watched]) -> None:
    (page,) = runs["lost"].report["pages"]
    assert ("lost.py", "lost.py", "fail", True, 1) == tuple(
        page[name] for name in ("docname", "source", "verdict", "executed", "workers")
    )
    assert ["concurrent.futures.ProcessPoolExecutor"] == page["executors"]
    assert page["findings"][0]["cell"] is None


def test_command_is_named_for_its_script_and_not_for_a_file_that_it_writes(folder: Path) -> None:
    (folder / "results.xml").touch()
    command = (sys.executable, "-S", "-X", "results.xml", "unwatched.py")
    run = watch(folder, "named", *command)
    assert run.status == 2
    assert [page["source"] for page in run.report["pages"]] == ["unwatched.py"]


def test_program_in_which_nothing_can_be_imported_runs_as_ever(runs: dict[str, Watched]) -> None:
    run = runs["cannot_import"]
    assert (1, "1\n") == (run.status, run.out), run.err
    assert [kind for _, kind, _ in run.found] == ["not-watched"]


def test_why_a_command_was_ended_is_said(runs: dict[str, Watched]) -> None:
    assert "the command was ended: 20 workers of one pool failed" in runs["respawns"].err
    assert "the command was ended: 20 workers of one pool failed" in runs["respawns_mute"].err
    assert "the command was ended: it lost work, and has done nothing" in runs["waits"].err
    assert "the command was ended" not in runs["many_pools"].err
    assert "24\n" in runs["many_pools"].out


def test_command_in_which_nothing_was_watched_is_2(runs: dict[str, Watched]) -> None:
    run = runs["unwatched"]
    assert (2, "fail") == (run.status, run.report["verdict"])
    assert "no verdict: not watched" in run.err
    assert "pass_env" in run.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum", "areas.py"], "there is no command 'rum'; --help lists the commands"),
        (["html", "--verbose"], "unrecognized arguments: --verbose"),
        (["doctr"], "doctr: no such folder. Build the documentation first.\nworkercheck: --help"),
        ([], "name the folder of a finished build, or a command; --help lists the commands"),
    ],
)
def test_command_or_option_that_is_not_there_is_named(words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workercheck", *words], capture_output=True, text=True, check=False
    )
    assert 2 == done.returncode
    assert message in done.stderr


@pytest.mark.parametrize("words", [["run", "--", "true"], ["lint", "."], ["html"]])
def test_current_folder_that_was_removed_is_said(words: list[str], tmp_path: Path) -> None:
    program = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    command = ["sh", "-c", program, "sh", sys.executable, "-P", "-m", "workercheck", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert done.stderr.startswith("workercheck: the current folder cannot be found")


def test_finding_has_one_line_whatever_the_name_of_its_file() -> None:
    finding = Finding("not-watched", "of it", 7)
    page = PageReport("a", "a\nb.md", True, findings=[finding])
    assert "a\\nb.md:7: of it. [not-watched]" == record.line(page, finding)


@pytest.mark.parametrize(
    ("commands", "named"),
    [
        ([["/e/bin/python", "/e/bin/tox", "-q"]], "those of tox, which"),
        (
            [["python3", "-m", "jupyter_server", "--x"], ["python3", "/e/bin/myst", "build"]],
            "those of jupyter_server, myst, which",
        ),
        ([["python", "-m", "tox"], ["python", "tests.py"]], None),
        ([["python", "/e/bin/pytest", "tox"]], None),
    ],
)
def test_command_in_which_only_launchers_were_watched_has_no_verdict(
    commands: list[list[str]], named: str | None
) -> None:
    events = [started(1, 0, *argv) for argv in commands]
    doubt = report_of.doubt_about(Report({}, [], {}), events)
    assert (named is None) == (doubt is None)
    assert doubt is None or str(named) in doubt.message
    # What was found is told: it names the environment of each process that was not watched.
    found = PageReport("tox", "tox", True, findings=[Finding("not-watched", "of .tox", 0)])
    assert report_of.doubt_about(Report({}, [found], {}), events) is None


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "name a command or pages"),
        (["--"], 2, "name a command or pages"),
        (["--report"], 2, "expected one argument"),
        (["lost.py", "--", "true"], 2, "write -- before the command"),
        (["--", "no-such-program"], 127, "cannot run no-such-program"),
        (["--", "."], 126, "cannot run ."),
    ],
)
def test_bad_call_is_an_error(
    folder: Path, arguments: list[str], status: int, message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workercheck", "run", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert status == done.returncode
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["json", "junit", "github"])
def test_other_formats_are_printed(folder: Path, name: str) -> None:
    command = [sys.executable, "lost.py"]
    run = watch(folder, f"of-{name}", *command, options=("--format", name))
    assert 1 == run.status
    assert {"json": '"line": 9', "junit": "<failure", "github": "::error file=lost.py,line=9"}[
        name
    ] in run.out


SLEEPS = """
import sys, time
from concurrent.futures import ProcessPoolExecutor

def work():
    time.sleep(600)

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        executor.submit(work)
        while not executor._processes:
            time.sleep(0.01)
        try:
            print("ready", flush=True)
            # A single sleep may outlast the signal: Linux may hand it to another thread.
            while True:
                time.sleep(0.1)
        except KeyboardInterrupt:
            executor.kill_workers() if hasattr(executor, "kill_workers") else [
                process.kill() for process in executor._processes.values()
            ]
            sys.exit(5)
"""


def descendants(pid: int) -> list[psutil.Process]:
    found = psutil.Process(pid).children(recursive=True)
    assert found
    return found


def assert_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 60
    left = processes
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert [] == left


WORKS_ON = """\
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def work():
    print("ready", flush=True)
    while True:
        time.sleep(0.1)

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        lost = executor.submit(int, "one")
        stopped = executor.submit(work)
"""


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    command = [sys.executable, "-m", "workercheck", "run", "--", sys.executable, "sleeps.py"]
    # Its group is ended with it, as Ctrl-C in a shell or a CI runner does.
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert "ready\n" == process.stdout.readline()
    yield process, descendants(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 5), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_signal_reaches_the_command_and_nothing_is_left(
    sleeping, number: signal.Signals, status: int, to_group: bool
) -> None:
    process, below = sleeping
    (os.killpg if to_group else os.kill)(process.pid, number)
    assert status == process.wait()
    assert_gone(below)


@pytest.mark.parametrize("to_group", [False, True])
def test_ctrl_c_reaches_the_worker_that_the_command_waits_for(
    tmp_path: Path, to_group: bool
) -> None:
    """Without it, the worker would go on for ever. What it stops was not lost."""
    (tmp_path / "works_on.py").write_text(WORKS_ON)
    command = [sys.executable, "-m", "workercheck", "run", "--", sys.executable, "works_on.py"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "ready\n" == process.stdout.readline()
        below = descendants(process.pid)
        (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
        try:
            assert 130 == process.wait(60)
        finally:
            process.kill()
        told = process.stderr.read()
    assert "works_on.py:12: a future of int failed and nobody looked at it (ValueError" in told
    assert 1 == told.count("[unseen-failure]"), told
    assert_gone(below)


def test_terminal_is_the_commands_own(tmp_path: Path) -> None:
    """Ctrl-C at the terminal reaches the command, once."""
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(
            sys.executable,
            [sys.executable, *("-m", "workercheck", "run", "--", sys.executable, "sleeps.py")],
        )
    try:
        said = b""
        while b"ready" not in said:
            said += os.read(terminal, 1024)
        below = descendants(pid)
        os.write(terminal, b"\x03")
        try:
            while chunk := os.read(terminal, 1024):
                said += chunk
        except OSError:
            pass  # how Linux says that the other end is closed
        assert 5 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said
        assert_gone(below)
    finally:
        os.close(terminal)


def test_file_that_only_starts_a_program_hands_no_work_out(runs: dict[str, Watched]) -> None:
    run = runs["of_another_program"]
    assert ["lost.py"] == [page["source"] for page in run.report["pages"]]
    assert "1 file or test handed out work" in run.err
