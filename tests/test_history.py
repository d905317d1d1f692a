"""Histories that no page was seen to make, made up event by event."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import pytest
from conftest import started
from runs import execute, findings, page, page_of_tags
from workercheck.evidence import records as ev
from workercheck.judge import rules
from workercheck.judge.history import History


@pytest.mark.parametrize("interpreters", [0, 2])
def test_unknown_message_of_a_worker_is_told_by_a_guess_that_says_so(interpreters: int) -> None:
    kernel = started(7, 1, "python", "-m", "ipykernel_launcher")
    load = ev.LoadFailed(
        **{field.name: None for field in dc.fields(ev.LoadFailed)}
        | {"pid": 8, "time": 2, "stack": [["loky.process_executor", "_process_worker"]]}
        | {"interpreter": 0, "fingerprint": 5, "exception": "AttributeError", "message": ""}
        | {"name": "f", "globals": ["__main__.f"], "traceback": ""}
    )
    events = [
        kernel,
        ev.CellStarted(pid=1, time=1, cell=0),
        ev.ChildStarted(
            pid=7,
            time=1,
            child=8,
            place=0,
            target=None,
            argv=[],
            owned=False,
            pool=0,
            replaces=False,
        ),
        started(8, 7, "python", "-m", "loky.backend.popen_loky_posix"),
        # Each interpreter says that it starts, and has the kernel's pid.
        *(dc.replace(kernel) for _ in range(interpreters)),
        ev.CellStarted(pid=1, time=2, cell=1),
        load,
    ]
    (finding,) = rules.judge(History(page_of_tags([[], []]), events))
    assert finding.cell == 1
    assert "is a guess" in finding.message


@pytest.mark.parametrize("is_group", [False, True])
@pytest.mark.parametrize("asked_first", [True, False])
def test_process_ended_on_purpose_only_if_it_was_asked_before_it_was_found_dead(
    asked_first: bool, is_group: bool
) -> None:
    """Dask asks a worker to end whose connection is lost, and it may be dead for long.

    A kernel's manager asks the kernel's whole group to end, workers that died long ago included.
    """
    started = ev.ProcessStarted(
        pid=8, time=1, ppid=7, group=6, argv=["python"], python="3.14", executable="", forked=True
    )
    target = 6 if is_group else 8
    asked = ev.SignalSent(pid=7, time=2, child=target, is_group=is_group, signal=15, owned=False)
    dead = ev.Exited(pid=7, time=2, child=8, exitcode=3, target=None)
    events = [started, *([asked, dead] if asked_first else [dead, asked])]
    assert asked_first == History(page_of_tags([[]]), events).was_ended_on_purpose(8)


def test_statement_that_handed_work_out_is_named_where_its_cell_has_several(
    tmp_path: Path,
) -> None:
    (tmp_path / "sending.py").write_text("\ndef send(f):\n    return pool.submit(f)\n", "utf-8")
    (run,) = execute(
        page(
            tmp_path,
            "from concurrent.futures import ThreadPoolExecutor\nimport sending\n"
            "pool = sending.pool = ThreadPoolExecutor(1)\n"
            "def hand_out(f):\n    return pool.submit(f)\n"
            "def a(): raise KeyError\ndef b(): raise KeyError\ndef c(): raise KeyError",
            "hand_out(a)",
            "sending.send(b)",
            "1 + 1\npool.submit(c)",
            "pool.submit(lambda: 1 / 0)",
        )
    )
    where = [f.message.rpartition(")")[2] for f in findings(run)]
    assert where == [
        ", at line 5 of the cell at line 10",
        ", at sending.py:3",
        ", at line 2 of the cell",
        "",
    ]


def test_no_statement_is_named_where_ipython_counts_lines_of_its_own(tmp_path: Path) -> None:
    (run,) = execute(
        page(
            tmp_path,
            "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)",
            "%%capture\n1 + 1\npool.submit(int, 'a')",
            "1 + 1\n2 + 2\n3 + 3",
            "!echo one \\\n  line\npool.submit(int, 'b')",
            "%%time\n\npool.submit(int, 'c')",
            "1 + 1",
            "1 + 1\npool.submit(int, 'd')",
        )
    )
    where = [f.message.rpartition(")")[2] for f in findings(run)]
    assert where == ["", "", "", ", at line 2 of the cell"]


@pytest.mark.parametrize(
    ("target", "owned", "kinds"),
    [
        ("multiprocessing.pool.worker", False, []),
        ("__main__.simulate", True, ["worker-died"]),
        ("pebble.common.process.function_handler", False, ["worker-died"]),
    ],
)
def test_worker_of_a_pool_that_dies_before_its_first_task_had_no_work(
    target: str, owned: bool, kinds: list[str]
) -> None:
    events = [
        started(7, 1, "python", "-m", "ipykernel_launcher"),
        ev.CellStarted(pid=1, time=1, cell=0),
        ev.ChildStarted(
            pid=7,
            time=1,
            child=8,
            place=0,
            target=target,
            argv=[],
            owned=owned,
            pool=0,
            replaces=False,
        ),
        # While it loaded the object that says what it has to run.
        ev.EndedAtWork(pid=1, time=2, child=8, is_loading=True, fingerprint=0, globals=[]),
    ]
    findings = rules.lost(History(page_of_tags([[]]), events))
    assert [finding.kind for finding in findings] == kinds


@pytest.mark.parametrize(
    ("target", "kinds"),
    [("loky.process_executor._process_worker", []), ("__main__.simulate", ["pickle-task"])],
)
def test_worker_that_starts_as_its_executor_is_shut_down_is_no_lost_work(
    target: str, kinds: list[str]
) -> None:
    failed = ev.PickleFailed(
        **{field.name: "" for field in dc.fields(ev.PickleFailed)}
        | {"pid": 7, "time": 2, "stack": [], "place": 0, "reply_to": 0, "is_result": False}
        | {"exception": "OSError", "message": "handle is closed", "object": target, "cell": None}
    )
    events = [
        started(7, 1, "python", "-m", "ipykernel_launcher"),
        ev.CellStarted(pid=1, time=1, cell=0),
        failed,
    ]
    findings = rules.lost(History(page_of_tags([[]]), events))
    assert [finding.kind for finding in findings] == kinds


def test_pool_that_breaks_before_a_submit_returns_has_lost_what_its_worker_had() -> None:
    fields: dict[str, object] = {field.name: None for field in dc.fields(ev.Place)}
    fields |= {"text": "", "whole": "", "through": "", "names": []}

    def place(number: int, line: int) -> ev.Place:
        here = {"pid": 7, "time": 1, "id": number, "file": "page.py", "line": line}
        return ev.Place(**fields | here | {"executor": "concurrent.futures.process"})

    events = [
        started(7, 1, "python", "-m", "ipykernel_launcher"),
        ev.CellStarted(pid=1, time=1, cell=0),
        place(1, 1),
        ev.ChildStarted(
            pid=7,
            time=1,
            child=8,
            place=1,
            target="concurrent.futures.process._process_worker",
            argv=[],
            owned=False,
            pool=0,
            replaces=False,
        ),
        ev.CellStarted(pid=1, time=2, cell=1),
        ev.PoolBroken(
            pid=7,
            time=2,
            executor="concurrent.futures.process",
            pids=[8],
            ended=[8],
            doomed=[0],
            message="",
        ),
        place(2, 2),
        ev.ShutdownStarted(pid=1, time=3),
        ev.EndedAtWork(pid=1, time=4, child=8, is_loading=False, fingerprint=5, globals=[]),
        ev.MessageSent(
            pid=1,
            time=4,
            fingerprint=5,
            to=8,
            sender=7,
            place=2,
            reply_to=0,
            within=0,
            corrects=False,
        ),
    ]
    (finding,) = rules.lost(History(page_of_tags([[], []]), events))
    assert finding.cell == 1
