"""Work that an executor numbers: each number leads to the line that handed it out."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
import time
import weakref
from concurrent.futures import Future
from concurrent.futures import process as futures
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from loky import process_executor as loky
from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.recorder import events, failure, handles, mapped, messages, numbered


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    folder = tmp_path / "evidence"
    folder.mkdir()
    return Evidence(folder).create()


def run(evidence: Evidence, code: str) -> str:
    """Run a script under the recorder, and return what it prints."""
    script = evidence.folder.parent / "script.py"
    script.write_text(textwrap.dedent(code))
    environ = {**os.environ, **evidence.environ}
    done = subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, timeout=60
    )
    assert 0 == done.returncode, done.stderr
    evidence.note_ended(lambda pid, born: False)
    return done.stdout


def lines(
    evidence: Evidence, cls: type[ev.LoadFailed] | type[ev.EndedAtWork], *, final: bool = True
) -> list[list[int]]:
    """Return, for each event of a kind, the lines of the script on the way to its message."""
    events = evidence.read(final=final)
    places = {(e.pid, e.id): e for e in events if isinstance(e, ev.Place)}
    found = []
    for event in events:
        if isinstance(event, cls):
            to = event.child if isinstance(event, ev.EndedAtWork) else event.pid
            sent = {
                e.fingerprint: e for e in events if isinstance(e, ev.MessageSent) and e.to == to
            }
            number, way = event.fingerprint, []
            while number in sent:
                way.append(places[sent[number].sender, sent[number].place].line)
                number = sent[number].within
            found.append(way)
    return sorted(found)


LATE = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

class Unloadable:
    def __reduce__(self):
        return int, ("no number",)

class Late(ProcessPoolExecutor):
    \"\"\"As on a busy machine, where a worker is faster than the process that hands out.\"\"\"

    is_late = False

    def _start_executor_manager_thread(self):
        super()._start_executor_manager_thread()
        while self.is_late and not Path(sys.argv[1]).exists():
            time.sleep(0.01)

if __name__ == "__main__":
    with Late(1) as executor:
        executor.submit(abs, 1).result()  # the first
        executor.is_late = True
        executor.submit(abs, Unloadable()).exception()  # the second
"""
LATE_LINES = [
    number
    for number, line in enumerate(LATE.splitlines(), 1)
    if line.endswith(("# the first", "# the second"))
]
POOLS = {
    "concurrent.futures": "from concurrent.futures import ProcessPoolExecutor as Executor",
    "loky": "from loky import ProcessPoolExecutor as Executor",
    "joblib's loky": "from joblib.externals.loky import ProcessPoolExecutor as Executor",
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps mapped bytes like this")
@pytest.mark.parametrize("library", POOLS)
def test_same_message_in_two_pools_leads_to_the_line_of_each(
    evidence: Evidence, library: str
) -> None:
    run(
        evidence,
        f"""
        import os, time
        {POOLS[library]}
        if __name__ == "__main__":
            first, second = Executor(1), Executor(1)
            first.submit(int, 7).result(), second.submit(int, 7).result()
            one = first.submit(eval, DIE)
            two = second.submit(eval, DIE)
            print(one.exception(), two.exception())
        """.replace("DIE", repr("__import__('time').sleep(1) or __import__('os').abort()")),
    )
    assert [[7], [8]] == lines(evidence, ev.EndedAtWork)


@pytest.mark.parametrize("library", POOLS)
def test_message_that_cannot_be_loaded_leads_to_its_line(evidence: Evidence, library: str) -> None:
    run(
        evidence,
        f"""
        {POOLS[library]}
        class Broken:
            def __reduce__(self):
                return int, ("x",)
        if __name__ == "__main__":
            executor = Executor(1)
            healthy = [executor.submit(abs, n) for n in range(50)]
            broken = executor.submit(print, Broken())
            healthy += [executor.submit(abs, n) for n in range(5)]
            print(broken.exception())
        """,
    )
    assert [[9]] == lines(evidence, ev.LoadFailed)


@pytest.mark.parametrize("library", POOLS)
def test_result_that_cannot_be_loaded_leads_to_its_line(evidence: Evidence, library: str) -> None:
    run(
        evidence,
        f"""
        {POOLS[library]}
        class Broken(Exception):
            def __init__(self, one, two):
                super().__init__("one")
        def fail(number):
            raise Broken(1, 2)
        if __name__ == "__main__":
            other, executor = Executor(1), Executor(1)
            other.submit(abs, -1).result()
            executor.submit(abs, -1).result()
            other.submit(abs, -2).result()
            print(executor.submit(fail, 1).exception())
        """,
    )
    assert [[13]] == lines(evidence, ev.LoadFailed)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps mapped bytes like this")
def test_work_of_a_worker_leads_to_its_line_and_to_that_of_the_page(evidence: Evidence) -> None:
    run(
        evidence,
        """
        import concurrent.futures as cf, multiprocessing, os
        def outer():
            with cf.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
                print(executor.submit(os.abort).exception())
        if __name__ == "__main__":
            with cf.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
                executor.submit(outer).result()
        """,
    )
    assert [[5, 8]] == lines(evidence, ev.EndedAtWork)


def test_object_whose_class_cannot_be_hashed_has_the_error_of_pickle(evidence: Evidence) -> None:
    printed = run(
        evidence,
        """
        import io, multiprocessing, pickle
        class Meta(type):
            def __eq__(cls, other):
                raise RuntimeError("compared")
        class Thing(metaclass=Meta):
            pass
        if __name__ == "__main__":
            receiver, sender = multiprocessing.Pipe()
            for send in (pickle.Pickler(io.BytesIO()).dump, sender.send):
                try:
                    send(Thing())
                except TypeError as error:
                    print(error)
        """,
    )
    stock, watched = printed.splitlines()
    assert stock == watched


def test_numbers_of_two_threads_lead_to_the_line_of_each(evidence: Evidence) -> None:
    printed = run(
        evidence,
        """
        import concurrent.futures as cf, json, sys, threading, time
        def one():
            for _ in range(400):
                ones.append(executor.submit(abs, 1))
        def two():
            for _ in range(400):
                twos.append(executor.submit(abs, 1))
        if __name__ == "__main__":
            sys.setswitchinterval(1e-6)
            executor, ones, twos = cf.ProcessPoolExecutor(1), [], []
            executor.submit(time.sleep, 1)
            threads = [threading.Thread(target=one), threading.Thread(target=two)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            of = {id(future): 5 for future in ones} | {id(future): 8 for future in twos}
            items = dict(executor._pending_work_items)
            print(json.dumps({n: of.get(id(item.future), 0) for n, item in items.items()}))
            executor.shutdown()
        """,
    )
    events = evidence.read(final=True)
    places = {(e.pid, e.id): e for e in events if isinstance(e, ev.Place)}
    (pid,) = {e.pid for e in events if isinstance(e, ev.Place)}
    runs = evidence._mapped.runs_of(pid)
    found, expected = {}, {int(n): line for n, line in json.loads(printed).items() if line}
    for number in expected:
        handed_out = runs.who_handed_out(number, 1)
        found[number] = places[pid, handed_out.place].line if handed_out else None
    assert len(expected) > 700
    assert expected == found


@pytest.mark.parametrize("asks_again", [True, False])
def test_work_that_fails_before_its_submit_has_returned_leads_to_its_own_line(
    evidence: Evidence, asks_again: bool
) -> None:
    script = evidence.folder.parent / "script.py"
    script.write_text(LATE)
    go_on = evidence.folder.parent / "go-on"
    environ = {**os.environ, **evidence.environ}
    command = [sys.executable, str(script), str(go_on)]
    with subprocess.Popen(command, env=environ) as process:
        try:
            deadline = time.monotonic() + 60
            while not any(isinstance(event, ev.MessageSent) for event in evidence.read()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            # What was handed out last, as far as is known.
            assert [[LATE_LINES[0]]] == lines(evidence, ev.LoadFailed, final=False)
        finally:
            go_on.touch()
    assert 0 == process.returncode
    if asks_again:
        evidence.ask_again()
    assert [[LATE_LINES[asks_again]]] == lines(evidence, ev.LoadFailed, final=False)
    assert [[LATE_LINES[1]]] == lines(evidence, ev.LoadFailed)
    answers = [event.corrects for event in evidence.read() if isinstance(event, ev.MessageSent)]
    assert [False, True] == answers


def test_run_that_goes_on_is_known_however_many_others_begin(evidence: Evidence) -> None:
    run(
        evidence,
        f"""
        from concurrent.futures import Future
        from workercheck.recorder import messages, numbered
        class Queue:
            pass
        class Item:
            def __init__(self, future):
                self.future = future
        class Executor:
            def __init__(self):
                self._queue_count, self._call_queue, self._pending_work_items = 0, Queue(), dict()
            def hand_out(self, place):
                future = Future()
                self._pending_work_items = {{self._queue_count: Item(future)}}
                self._queue_count += 1
                work = "future", place, True, None, 0
                numbered._number(self, future, work, numbered.pool_of(self._call_queue))
        quiet, busy = Executor(), Executor()
        for _ in range(3):
            quiet.hand_out(1)
        for n in range(3 * {mapped.SENT_COUNT}):
            busy.hand_out(2 + n % 2)
        for _ in range(3):
            quiet.hand_out(1)
        """,
    )
    files = evidence._mapped
    rings = files._rings_of(mapped.RUNS)
    pid = rings[0][0].pid
    latest = 3 * mapped.SENT_COUNT - 1
    runs = files.runs_of(pid)
    places = [runs.who_handed_out(latest - back, 2) for back in range(1000)]
    assert [2 + (latest - back) % 2 for back in range(1000)] == [p and p.place for p in places]
    assert [1, 1] == [p and p.place for p in [runs.who_handed_out(n, 1) for n in (0, 5)]]
    assert runs.who_handed_out(0, 3) is None
    assert files.runs_of(pid + 1).who_handed_out(0, 1) is None


def test_failures_of_many_futures_are_counted_at_the_line_of_each(evidence: Evidence) -> None:
    run(
        evidence,
        """
        import sys, threading
        from concurrent.futures import ProcessPoolExecutor
        if __name__ == "__main__":
            executor = ProcessPoolExecutor(1)
            executor.submit(abs, 1).result()
            sys.setswitchinterval(1e-6)
            def one():
                for _ in range(400):
                    executor.submit(int, "x")
            def two():
                for _ in range(400):
                    executor.submit(int, "y")
            threads = [threading.Thread(target=work) for work in (one, two)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for _ in range(21_000):
                executor.submit(int, "7")
            executor.submit(int, "z")
            executor.shutdown()
        """,
    )
    events = evidence.read(final=True)
    places = {e.id: e.line for e in events if isinstance(e, ev.Place)}
    told = {places[e.place]: e.count for e in events if isinstance(e, ev.Unseen)}
    assert {10: 400, 13: 400, 21: 1} == told


def test_handles_in_a_list_are_found_and_those_that_are_gone_forgotten() -> None:
    def noted(things: list[Future[int]]) -> list[Any]:
        return [weakref.ref(thing) for thing in things]

    first, second, dropped = ([Future[int]() for _ in range(3)] for _ in range(3))
    references = noted([*first, *dropped])
    del dropped
    handles.take(references, ("future", 5, True, None, 0))
    try:
        assert [5, 5, 5] == [handles.place_of(thing) for thing in first]
        assert [] == references
        handles.take(noted(second[:1]), ("future", 8, True, None, 0))
        references.append(weakref.ref(second[1]))
        assert [8, 0] == [handles.place_of(thing) for thing in second[:2]]
        assert {5, 8} == {noted[1][1] for noted in handles._all()}
        assert 4 == len(handles.under_way())
    finally:
        handles.forget()


@pytest.mark.parametrize("library", POOLS)
def test_what_an_idle_worker_loads_for_the_page_is_no_message(
    evidence: Evidence, library: str
) -> None:
    printed = run(
        evidence,
        f"""
        import pickle
        {POOLS[library]}
        class Noisy:
            def __del__(self):
                try:
                    pickle.loads(b"broken")
                except pickle.UnpicklingError:
                    pickle.loads(pickle.dumps(self.__dict__))
        class Broken:
            def __reduce__(self):
                return int, ("x",)
        if __name__ == "__main__":
            executor = Executor(1)
            for _ in range(3):
                executor.submit(id, Noisy()).result()
            broken = executor.submit(print, Broken())
            print(type(broken.exception()).__name__)
        """,
    )
    assert printed.startswith("Broken")
    assert [[17]] == lines(evidence, ev.LoadFailed)


# --- the number in a message ----------------------------------------------------------------------

TASKS: dict[str, Any] = {
    "concurrent.futures": futures._CallItem(70_000, abs, ("work_id", 3), {}),
    "loky": loky._CallItem(70_000, abs, ("work_id", 3), {}),
}
RESULTS: dict[str, Any] = {
    "concurrent.futures": futures._ResultItem(70_000, result=("work_id", 3)),
    "loky": loky._ResultItem(70_000, result=("work_id", 3)),
}


@pytest.mark.parametrize("library", TASKS)
@pytest.mark.parametrize("messages", [TASKS, RESULTS], ids=["task", "result"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_number_is_read_from_a_message(library: str, messages: Any, protocol: int) -> None:
    for dumps in (pickle.dumps, cloudpickle.dumps):
        message = dumps(messages[library], protocol)
        assert 70_000 == failure.work_id_of(message)
        assert 70_000 == failure.work_id_of(memoryview(message)[: len(message) - 4])


@pytest.mark.parametrize("thing", [{"work_id": 3}, (abs, "work_id", 3), 3, None])
def test_what_only_mentions_a_number_has_none(thing: object) -> None:
    assert failure.work_id_of(pickle.dumps(thing)) is None
    assert failure.work_id_of(b"") is None
    assert failure.work_id_of(b"work_id\x00K\x03") is None


@pytest.mark.parametrize("fails", [True, False])
def test_message_that_cannot_be_told_apart_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr(events, "failed", lambda what, _: said.append(what))
    if fails:
        monkeypatch.setattr(numbered, "known_by", None)
    known = messages._known_by(b"message", None)
    assert (fails, ["a message"] if fails else []) == (known == 0, said)


def test_number_is_no_fingerprint_and_can_be_divided() -> None:
    known = {mapped.numbered(work_id, pid) for work_id in (0, 1, 70_000) for pid in (1, 4_194_304)}
    assert 6 == len(known)
    assert (70_000, 4_194_304) == mapped.divided(mapped.numbered(70_000, 4_194_304))
    assert all(number & mapped.NUMBERED for number in known)
    for message in (b"", b"a", bytes(100), bytes(100_000)):
        assert not mapped.fingerprint(message) & mapped.NUMBERED
