"""``pytest --workercheck``: the test that handed out lost work is red, and says why."""

from __future__ import annotations

import dataclasses as dc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
from workercheck.evidence import records as ev
from workercheck.judge.finding import Finding
from workercheck.report.record import PageReport, Report
from workercheck.report.told import Told
from workercheck.run.questions import Asking, Questions

WORK = """
class Fragile:
    def __reduce__(self):
        return int, ("no number",)

def length(thing):
    return 1

def area(x):
    return x * missing

def put(queue):
    queue.put(lambda: 1)
"""
SUITE = """
import unittest
from concurrent.futures import ProcessPoolExecutor

import pytest
from work import Fragile, area, length, put

def swallow():
    with ProcessPoolExecutor(1) as executor:
        try:
            executor.submit(length, Fragile()).result()
        except Exception:
            pass

def test_healthy():
    with ProcessPoolExecutor(1) as executor:
        assert executor.submit(length, 2).result() == 1

def test_without_work():
    pass

def test_asked():
    with ProcessPoolExecutor(1) as executor, pytest.raises(NameError):
        executor.submit(area, 2).result()

def test_lost():
    with ProcessPoolExecutor(1) as executor:
        executor.submit(area, 2)

def test_swallowed():
    swallow()

def test_of_the_same_helper():
    swallow()

def test_with_an_error_of_its_own():
    with ProcessPoolExecutor(1) as executor:
        executor.submit(length, Fragile()).result()

def test_skipped():
    swallow()
    pytest.skip("too late")

class TestOfUnittest(unittest.TestCase):
    def test_of_unittest(self):
        swallow()

@pytest.fixture
def executor():
    with ProcessPoolExecutor(1) as executor:
        yield executor

def test_with_fixture(executor):
    executor.submit(area, 2)

@pytest.mark.expect_worker_error
def test_expected():
    swallow()

@pytest.mark.expect_worker_error
def test_absent():
    pass

@pytest.mark.expect_worker_error
@pytest.mark.skip
def test_absent_skipped():
    pass

@pytest.mark.xfail(strict=True)
def test_known_to_fail():
    swallow()

def test_lost_by_its_process():
    from multiprocessing import Process, Queue
    queue = Queue()
    process = Process(target=put, args=(queue,))
    process.start()
    process.join()
    assert process.exitcode == 0
"""
HEALTHY = """
from concurrent.futures import ProcessPoolExecutor

import pytest
from work import Fragile, length

@pytest.mark.parametrize("x", range(3))
def test_healthy(x):
    with ProcessPoolExecutor(1) as executor:
        assert executor.submit(length, x).result() == 1

@pytest.mark.expect_worker_error
def test_expected():
    with ProcessPoolExecutor(1) as executor, pytest.raises(Exception):
        executor.submit(length, Fragile()).result()
"""
LATE = """
from concurrent.futures import ProcessPoolExecutor

from work import area, length

futures = []
executor = ProcessPoolExecutor(1)

def test_leaves_work():
    futures.append(executor.submit(area, 2))

def test_later():
    assert executor.submit(length, 2).result() == 1
"""
SHARED = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Pool

import pytest
from work import area, length

@pytest.fixture(scope="session")
def executor():
    with ProcessPoolExecutor(2) as executor:
        executor.submit(length, 1).result()
        yield executor

@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        assert 1 == pool.apply(length, (1,))
        yield pool

def fail_later(x):
    time.sleep(0.3)
    return area(x)

def test_drops(executor):
    executor.submit(fail_later, 2)

def test_drops_at_its_end(executor):
    future = executor.submit(fail_later, 3)
    assert not future.done()

def test_drops_a_result(pool):
    pool.apply_async(fail_later, (4,))

def test_healthy(executor, pool):
    assert 1 == executor.submit(length, 2).result() == pool.apply(length, (2,))

KEPT = []

def test_keeps(executor):
    KEPT.append(executor.submit(time.sleep, 1))
    assert not KEPT[0].done()

def test_soon_after(executor):
    assert not KEPT[0].done()
"""
REPLACES = """
import os
import time
from concurrent.futures import ProcessPoolExecutor, wait

import pytest
from freezegun import freeze_time
from work import Fragile, area, length

def lose():
    with ProcessPoolExecutor(1) as executor:
        executor.submit(area, 2)

def test_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("PYTEST", "WORKERCHECK")):
            monkeypatch.delenv(name)
    lose()

@pytest.mark.parametrize("moment", ["2001-01-01", "2100-01-01"])
def test_frozen_time(moment):
    with freeze_time(moment):
        lose()

@pytest.fixture
def frozen():
    with freeze_time("2100-01-01"):
        yield

def test_frozen_time_of_a_message(frozen):
    with ProcessPoolExecutor(1) as executor:
        try:
            executor.submit(length, Fragile()).result()
        except Exception:
            pass

def refuse(*args, **kwargs):
    raise RuntimeError("this call blocks the event loop")

def test_blocking_calls_healthy(monkeypatch):
    # As blockbuster does within a coroutine.
    with ProcessPoolExecutor(1) as executor:
        assert executor.submit(length, 1).result() == 1
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", refuse)
            future = executor.submit(length, 2)
        assert future.result() == 1

@pytest.fixture(scope="module")
def executor():
    with ProcessPoolExecutor(1) as executor:
        assert executor.submit(length, 1).result() == 1
        yield executor

def test_files(executor, fs):
    wait([executor.submit(area, 2)])
    assert not os.path.exists("/etc")

@pytest.fixture(scope="module")
def broken(executor):
    def fail(*args, **kwargs):
        raise OSError("replaced")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "stat", "unlink"):
            patch.setattr(os, name, fail)
        patch.setattr("builtins.open", fail)
        patch.setattr(time, "time", lambda: 5.0)
        yield

def test_functions(executor, broken):
    wait([executor.submit(area, 2)])

def test_functions_healthy(executor, broken):
    assert executor.submit(length, 2).result() == 1
"""
PROGRAM = """
import sys

import pytest

sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--workercheck", "suite.py"]))
"""
FILES = {
    "work.py": WORK,
    "suite.py": SUITE,
    "healthy.py": HEALTHY,
    "late.py": LATE,
    "shared.py": SHARED,
    "replaces.py": REPLACES,
    "program.py": PROGRAM,
}


@dc.dataclass
class Outcome:
    status: int
    output: str
    tests: dict[str, tuple[str, str]]
    """By name: ``passed``, ``failure``, ``error`` or ``skipped``, and what is said about it."""


def run(folder: Path, name: str, *options: str, ini: str = "") -> Outcome:
    own = folder / name
    own.mkdir()
    for file, code in FILES.items():
        (own / file).write_text(code.lstrip())
    (own / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{ini}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers"]
    done = subprocess.run(
        [*command, "--junitxml", "junit.xml", *options],
        cwd=own,
        # Of the process that runs this test.
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    tests = {}
    if (own / "junit.xml").exists():
        for case in ElementTree.parse(own / "junit.xml").iter("testcase"):
            said = next(iter(case), None)
            outcome = said.tag if said is not None else "passed"
            text = f"{said.get('message')}\n{said.text}" if said is not None else ""
            if tests.get(case.get("name"), ("passed", ""))[0] == "passed":
                tests[case.get("name")] = outcome, text
    return Outcome(done.returncode, done.stdout, tests)


RUNS = {
    "off": ("suite.py",),
    "one": ("--workercheck", "suite.py"),
    "two": ("--workercheck", "-n", "2", "suite.py"),
    "healthy": ("--workercheck", "healthy.py"),
    "healthy two": ("--workercheck", "-n", "2", "healthy.py"),
    "late": ("--workercheck", "late.py"),
    "late two": ("--workercheck", "-n", "2", "--dist", "loadfile", "late.py"),
    "shared": ("--workercheck", "shared.py"),
    "shared two": ("--workercheck", "-n", "2", "--dist", "loadfile", "shared.py"),
    "replaces": ("--workercheck", "replaces.py"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every suite; most of the time is spent waiting for processes."""
    folder = tmp_path_factory.mktemp("suites")
    with ThreadPoolExecutor(3) as executor:
        done = executor.map(lambda name: run(folder, name, *RUNS[name]), RUNS)
        return dict(zip(RUNS, done, strict=True))


UNPICKLE = (
    "suite.py:10: a worker could not unpickle work.length (ValueError: invalid literal for int() "
    "with base 10: 'no number') sent through concurrent.futures.ProcessPoolExecutor"
)
UNSEEN = "a future of work.area failed and nobody looked at it (NameError: name 'missing'"
ABSENT = "the test is marked expect_worker_error, and no worker failed: the test passed."


@pytest.mark.parametrize("processes", ["one", "two"])
@pytest.mark.parametrize(
    ("test", "outcome", "said"),
    [
        ("test_healthy", "passed", ""),
        ("test_without_work", "passed", ""),
        ("test_asked", "passed", ""),
        ("test_lost", "failure", f"suite.py:27: {UNSEEN}"),
        ("test_swallowed", "failure", UNPICKLE),
        ("test_of_the_same_helper", "failure", UNPICKLE),
        ("test_with_an_error_of_its_own", "failure", UNPICKLE.replace(":10:", ":37:")),
        ("test_skipped", "failure", UNPICKLE),
        ("test_of_unittest", "failure", UNPICKLE),
        ("test_expected", "passed", ""),
        ("test_absent", "error", f"suite.py:59: {ABSENT}"),
        ("test_absent_skipped", "skipped", ""),
        ("test_known_to_fail", "skipped", ""),
        ("test_lost_by_its_process", "failure", "work.py:12: a worker could not pickle"),
    ],
)
def test_the_test_that_handed_lost_work_out_is_red(
    runs: dict[str, Outcome], processes: str, test: str, outcome: str, said: str
) -> None:
    found, text = runs[processes].tests[test]
    assert outcome == found, text
    assert said in text
    assert (outcome in ("failure", "error")) == (
        "Ask the future for its result()" in text
    ) or said != UNSEEN


@pytest.mark.parametrize("processes", ["one", "two"])
def test_work_that_is_dropped_in_a_fixture_of_the_test_fails_the_test_or_its_end(
    runs: dict[str, Outcome], processes: str
) -> None:
    outcome, text = runs[processes].tests["test_with_fixture"]
    assert outcome in ("failure", "error")
    assert f"suite.py:53: {UNSEEN}" in text


@pytest.mark.parametrize("processes", ["one", "two"])
def test_what_tests_were_told_is_not_told_again(runs: dict[str, Outcome], processes: str) -> None:
    run = runs[processes]
    assert 1 == run.status
    *_, last = run.output.splitlines()
    assert last.startswith("workercheck: "), run.output
    assert "(1 failure expected)" in last


def test_nothing_happens_without_the_option(runs: dict[str, Outcome]) -> None:
    run = runs["off"]
    assert "failure" == run.tests["test_with_an_error_of_its_own"][0]
    assert "workercheck: " not in run.output
    assert {"test_with_an_error_of_its_own", "test_known_to_fail"} == {
        name for name, (outcome, _) in run.tests.items() if outcome == "failure"
    }


@pytest.mark.parametrize("name", ["healthy", "healthy two"])
def test_healthy_suite_is_green(runs: dict[str, Outcome], name: str) -> None:
    run = runs[name]
    assert 0 == run.status, run.output
    assert {"passed"} == {outcome for outcome, _ in run.tests.values()}
    assert "lost work fails its test" in run.output


@pytest.mark.parametrize("name", ["late", "late two"])
def test_work_that_nobody_asked_for_until_the_end_is_told_with_its_test(
    runs: dict[str, Outcome], name: str
) -> None:
    run = runs[name]
    assert 1 == run.status, run.output
    assert {"passed"} == {outcome for outcome, _ in run.tests.values()}
    *_, last = run.output.splitlines()
    assert last.startswith(f"late.py:9: {UNSEEN}"), run.output
    assert last.endswith("[unseen-failure] handed out by late.py::test_leaves_work")


@pytest.mark.parametrize("name", ["shared", "shared two"])
@pytest.mark.parametrize(
    ("test", "line"),
    [
        ("test_drops", 25),
        ("test_drops_at_its_end", 28),
        ("test_drops_a_result", 32),
        ("test_healthy", 0),
        ("test_keeps", 0),
        ("test_soon_after", 0),
    ],
)
def test_work_that_a_test_drops_in_the_executor_of_all_fails_that_test(
    runs: dict[str, Outcome], name: str, test: str, line: int
) -> None:
    outcome, text = runs[name].tests[test]
    # An error of its end, where a busy machine needed long.
    assert (outcome in ("failure", "error")) == bool(line), runs[name].output
    assert f"shared.py:{line}: a " in text or not line


@pytest.mark.parametrize(
    ("test", "line"),
    [
        ("test_environment", 11),
        ("test_frozen_time[2001-01-01]", 11),
        ("test_frozen_time[2100-01-01]", 11),
        ("test_frozen_time_of_a_message", 32),
        ("test_files", 55),
        ("test_functions", 71),
        ("test_functions_healthy", 0),
        ("test_blocking_calls_healthy", 0),
    ],
)
def test_lost_work_is_seen_where_a_suite_replaces_what_the_recorder_uses(
    runs: dict[str, Outcome], test: str, line: int
) -> None:
    outcome, text = runs["replaces"].tests[test]
    assert ("failure" if line else "passed") == outcome, runs["replaces"].output
    assert f"replaces.py:{line}: a " in text or not line
    assert "not watched" not in runs["replaces"].output


def test_option_may_stand_in_the_configuration(tmp_path: Path) -> None:
    done = run(tmp_path, "ini", "suite.py", "-k", "test_lost", ini="addopts = --workercheck")
    assert 1 == done.status, done.output
    assert "failure" == done.tests["test_lost"][0]


def test_program_that_calls_pytest_is_told_how_to_be_watched(tmp_path: Path) -> None:
    run(tmp_path, "program", "--collect-only", "suite.py")
    program = [sys.executable, "program.py"]
    for words, status in (
        (program, 4),
        ([sys.executable, "-m", "workercheck", "run", "--", *program], 1),
    ):
        done = subprocess.run(
            words, cwd=tmp_path / "program", capture_output=True, text=True, check=False
        )
        assert status == done.returncode, done.stdout + done.stderr
        assert ("workercheck run -- COMMAND" in done.stderr) == (status == 4)
        assert ("FAILED suite.py::test_lost" in done.stdout) == (status == 1)


def test_process_that_something_else_watches_cannot_answer(tmp_path: Path) -> None:
    run(tmp_path, "other", "--collect-only", "suite.py")
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    (evidence / "events.jsonl").touch()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--workercheck", "suite.py"],
        cwd=tmp_path / "other",
        env=os.environ | {"WORKERCHECK_EVIDENCE": str(evidence)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 4 == done.returncode, done.stdout
    assert "something other than `workercheck run` watches this process" in done.stderr


def test_plugin_imports_next_to_nothing_without_the_option() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import workercheck.fronts.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ["workercheck", "workercheck.fronts", "workercheck.fronts.pytest_plugin"] == [
        name for name in done.stdout.split() if name != "__mp_main__"
    ]


# --- what a test is told --------------------------------------------------------------------------


def unseen(count: int) -> ev.Event:
    return ev.Unseen(
        pid=1,
        time=0,
        what="future",
        place=1,
        exception=None,
        message="",
        count=count,
        child=None,
        request=0,
    )


def report(events: object) -> Report:
    """A page with a finding for each failure nobody looked at, on the line of its count."""
    found = [e for e in events if isinstance(e, ev.Unseen)]
    findings = [Finding("unseen-failure", "lost", e.count) for e in found]
    return Report({}, [PageReport("a::t", "a.py", True, findings=findings)], {})


def lines(told: Told, events: list[ev.Event], *, is_over: bool = False) -> list[int]:
    return [finding.line for _, finding in told.new("a::t", events, is_over=is_over)]


def test_a_finding_is_told_once() -> None:
    told = Told(report)
    events = [unseen(3)]
    assert [3] == lines(told, events)
    events.append(unseen(5))
    assert [5] == lines(told, events, is_over=True)
    assert [] == told.new("a::other", events, is_over=True)
    (page,) = told.rest(report([*events, unseen(7)])).pages
    assert [7] == [finding.line for finding in page.findings]


def test_a_test_that_is_run_again_is_told_again_of_what_it_did_again() -> None:
    told = Told(report)
    events = [unseen(3)]
    assert [3] == lines(told, events, is_over=True)
    assert [] == lines(told, events)
    events.append(unseen(3))
    assert [3] == lines(told, events, is_over=True)


# --- questions ------------------------------------------------------------------------------------


@pytest.fixture
def questions(tmp_path: Path) -> Iterator[tuple[Questions, Path]]:
    folder = tmp_path / ("a path too long for a socket " * 4)
    folder.mkdir()
    with Questions(folder) as questions:
        yield questions, folder


def ask(questions: Questions, asking: Asking, **question: object) -> object:
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(asking.ask, **question)
        while not future.done():
            questions.answer(lambda asked: [asked["test"], "x" * 200_000])
        return future.result()


def test_each_asking_process_gets_its_answer(questions: tuple[Questions, Path]) -> None:
    server, folder = questions
    with closing(Asking(str(folder))) as first, closing(Asking(str(folder))) as second:
        assert ["a", "x" * 200_000] == ask(server, first, test="a")
        assert ["b", "x" * 200_000] == ask(server, second, test="b")
        assert ["c", "x" * 200_000] == ask(server, first, test="c")


def test_answer_to_a_question_that_was_interrupted_is_not_taken_for_the_next(
    questions: tuple[Questions, Path],
) -> None:
    server, folder = questions
    with closing(Asking(str(folder))) as asking:
        asking._number += 1
        asking._socket.sendall(json.dumps({"number": 1, "test": "interrupted"}).encode() + b"\n")
        assert ["next", "x" * 200_000] == ask(server, asking, test="next")


def test_what_is_no_question_ends_the_connection_and_nothing_else(
    questions: tuple[Questions, Path],
) -> None:
    server, folder = questions
    with closing(Asking(str(folder))) as bad, closing(Asking(str(folder))) as good:
        bad._socket.sendall(b"hello\n")
        assert ["a", "x" * 200_000] == ask(server, good, test="a")
        while len(server.sockets) > 2:
            server.answer(lambda asked: None)
        assert bad.ask(test="b") is None
