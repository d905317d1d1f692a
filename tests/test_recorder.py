"""The recorder in a bare interpreter: it sees failed loads, and nothing else changes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import pickletools
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from workercheck.evidence import records as ev
from workercheck.evidence.mapped import MappedFiles
from workercheck.evidence.reader import Evidence
from workercheck.recorder import failure as _failure
from workercheck.recorder import (
    handles,
    keyed,
    monitor311,
    sent_later,
    signals,
    this_process,
    waiting,
)


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path).create()


def python(code: str, evidence: Evidence | None = None, *options: str) -> str:
    """Run code in an interpreter of its own, watched if there is evidence to write."""
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        env={"PATH": ""} | (evidence.environ if evidence else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


TRANSPORT = """
import multiprocessing.connection, pickle
receiver, sender = multiprocessing.Pipe()
sender.send_bytes({message!r})
"""


def failures(evidence: Evidence) -> list[ev.LoadFailed]:
    return [event for event in evidence.read() if isinstance(event, ev.LoadFailed)]


@pytest.mark.parametrize("options", [(), ("-I",), ("-E", "-s")])
def test_process_says_that_it_watches(evidence: Evidence, options: tuple[str, ...]) -> None:
    python("pass", evidence, *options)
    (started,) = evidence.read()
    assert isinstance(started, ev.ProcessStarted)
    assert not started.forked


def test_nothing_happens_without_the_variable() -> None:
    code = (
        "import sys, pickle; "
        "print('workercheck.recorder.process' in sys.modules, type(pickle.loads))"
    )
    assert "False <class 'builtin_function_or_method'>\n" == python(code)


def test_failed_load_of_a_transport_is_recorded(evidence: Evidence) -> None:
    code = TRANSPORT.format(message=b"c__main__\nsphere\n.") + "receiver.recv()"
    python(code, evidence)
    (failure,) = failures(evidence)
    assert ("AttributeError", ["__main__.sphere"]) == (failure.exception, failure.globals)
    assert ["multiprocessing.connection", "recv"] == failure.stack[0]


def test_load_that_succeeds_is_not(evidence: Evidence) -> None:
    python(TRANSPORT.format(message=pickle.dumps([1, 2])) + "receiver.recv()", evidence)
    assert [] == failures(evidence)


def test_pages_own_load_is_not(evidence: Evidence) -> None:
    python("import pickle\npickle.loads(b'junk')", evidence)
    assert [] == failures(evidence)


@pytest.mark.parametrize(
    "error", ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "StopIteration"]
)
def test_every_exception_is_recorded_and_passed_on(evidence: Evidence, error: str) -> None:
    message = (
        f"c__builtin__\neval\n(Vlist(i for i in [1]) and (_ for _ in ()).throw({error}(7))\ntR."
    )
    code = TRANSPORT.format(message=message.encode()) + (
        f"try:\n    receiver.recv()\nexcept {error} as exc:\n    print('passed on', exc.args)"
    )
    if error == "StopIteration":
        code = TRANSPORT.format(message=b"c__builtin__\nnext\n(c__builtin__\niter\n(]tRtR.") + (
            "try:\n    receiver.recv()\nexcept StopIteration as exc:\n    print('passed on')"
        )
    assert "passed on" in python(code, evidence)
    (failure,) = failures(evidence)
    assert error == failure.exception


@pytest.mark.parametrize(
    "function",
    [
        *("pickle.dumps", "pickle.loads"),
        *("os.kill", "os.killpg", "os.execve", "os._exit"),
    ],
)
def test_watched_function_looks_like_itself(evidence: Evidence, function: str) -> None:
    code = f"""
    import inspect, multiprocessing, os, pickle
    print({function}, inspect.signature({function}), {function}.__doc__, {function}.__name__)
    print(pickle.dumps({function}), pickle.loads(pickle.dumps({function})) is {function})
    """
    assert python(code) == python(code, evidence) != ""


def test_traceback_is_the_same_as_without(evidence: Evidence) -> None:
    code = TRANSPORT.format(message=b"c__main__\nsphere\n.") + "receiver.recv()"
    assert python(code) == python(code, evidence)


def test_failure_within_a_failure_is_one_event(evidence: Evidence) -> None:
    inner = b"c__main__\nsphere\n."
    # multiprocessing.reduction's own loads, called while another message is loaded.
    outer = b"cmultiprocessing.connection\n_ForkingPickler.loads\n(C" + bytes([len(inner)]) + inner
    code = (
        "import multiprocessing.reduction, multiprocessing.connection\n"
        + TRANSPORT.format(message=b"\x80\x04" + outer + b"tR.")
        + "receiver.recv()"
    )
    out = python(code, evidence)
    assert "AttributeError" in out, out
    assert 1 == len(failures(evidence))


def test_wrapper_pickles_by_reference_and_is_no_method(evidence: Evidence) -> None:
    code = """
    import pickle
    from multiprocessing.reduction import ForkingPickler
    class Holder:
        loads = pickle.loads
    assert pickle.loads(pickle.dumps(pickle.loads)) is pickle.loads
    assert Holder().loads(pickle.dumps(5)) == 5
    assert ForkingPickler.loads(pickle.dumps(5)) == 5
    import pickletools
    print([arg for _, arg, _ in pickletools.genops(pickle.dumps(pickle.loads)) if type(arg) is str])
    """
    assert "['_pickle', 'loads']\n" == python(code, evidence)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_says_that_it_watches(evidence: Evidence) -> None:
    python("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: os._exit(0)", evidence)
    assert [False, True] == [e.forked for e in evidence.read() if isinstance(e, ev.ProcessStarted)]


SLOW_IMPORT = """
import importlib.abc, multiprocessing, os, signal, sys, threading, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            begun.set()
            time.sleep(2)

def send():
    ours, theirs = multiprocessing.Pipe()
    ours.send(1)
    assert theirs.recv() == 1
    ours.send(Unloadable())
    try:
        theirs.recv()
    except ValueError:
        pass

class Unloadable:
    def __reduce__(self):
        return int, ("no number",)

begun = threading.Event()
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=send)
thread.start()
begun.wait()
pid = os.fork()
if not pid:
    signal.alarm(10)
    send()
    print("forked", flush=True)
    os._exit(0)
thread.join()
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    "module",
    ["mmap", "pickletools", "workercheck.recorder.mapped", "workercheck.recorder.failure"],
)
def test_forked_child_waits_for_no_import_of_another_thread(
    evidence: Evidence, module: str
) -> None:
    code = SLOW_IMPORT.replace("{module}", module)
    assert "forked\n" == python(code, evidence, "-W", "ignore")


BESIDE_THREADS = """
import os, pickle, sys, threading

done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range({count})]
for thread in threads:
    thread.start()
pid = os.fork()
if not pid:
    print("unicodedata" in sys.modules, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
done.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("count", [0, 1])
def test_a_fork_beside_a_thread_has_whatever_formats_a_traceback(
    evidence: Evidence, count: int
) -> None:
    code = BESIDE_THREADS.format(count=count)
    assert f"{count > 0}\n" == python(code, evidence, "-W", "ignore")


def test_a_future_is_set_by_a_thread_that_has_no_frame_below(evidence: Evidence) -> None:
    code = """
    import _thread, concurrent.futures

    future = concurrent.futures.Future()
    _thread.start_new_thread(future.set_exception, (ValueError("lost"),))
    print(repr(future.exception(10)))
    """
    assert "ValueError('lost')\n" == python(code, evidence)


def test_death_during_a_load_leaves_its_mark(evidence: Evidence) -> None:
    in_worker = "import os\nif not os.fork():\n    receiver.recv()\nos.wait()"
    python(TRANSPORT.format(message=b"cos\n_exit\n(I3\ntR.") + in_worker, evidence)
    (ended,) = MappedFiles(evidence.folder).ended_at_work(lambda pid, moment: False)
    assert (True, ["os._exit"]) == (ended["is_loading"], ended["globals"])


def test_a_load_that_failed_is_joined_to_the_code_that_sent_the_message(evidence: Evidence) -> None:
    code = """
    import multiprocessing, pickle

    class Ghost:
        def __reduce__(self):
            return __import__, ("ghost_module",)

    def sent_here(connection):
        connection.send(1)
        connection.send(Ghost())

    receiver, sender = multiprocessing.Pipe()
    sent_here(sender)
    print(receiver.recv())
    try:
        receiver.recv()
    except ModuleNotFoundError:
        pass
    """
    assert "1\n" == python(code, evidence)
    events = evidence.read()
    (failure,) = [event for event in events if isinstance(event, ev.LoadFailed)]
    (sent,) = [event for event in events if isinstance(event, ev.MessageSent)]
    assert failure.fingerprint == sent.fingerprint
    (place,) = [event for event in events if isinstance(event, ev.Place) and event.id == sent.place]
    # Ghost() was sent from this line, the 1 from the one above.
    assert code.splitlines()[place.line - 1].strip() == "connection.send(Ghost())"


def test_text_that_a_host_runs_in_its_worker_is_not_the_readers(evidence: Evidence) -> None:
    code = "import multiprocessing; multiprocessing.SimpleQueue().put(1)"
    for argument, line in (
        (code, ""),
        ("import sys;exec(eval(sys.stdin.readline()))", repr(code)),  # as pytest-xdist does
    ):
        subprocess.run(
            [sys.executable, "-c", argument],
            env={"PATH": ""} | evidence.environ,
            input=line,
            text=True,
            check=True,
        )
    assert ["<string>"] == [e.file for e in evidence.read() if isinstance(e, ev.Place)]


COUNTED = """
import collections, math, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor

seen = collections.Counter()
context = multiprocessing.get_context("fork")
with ProcessPoolExecutor(1, mp_context=context) as executor:
    executor.submit(math.sqrt, 4).result()
    sys.addaudithook(lambda event, _: seen.update((event,)))
    for _ in range(100):
        executor.submit(math.sqrt, 4).result()
print(seen["builtins.id"] // 100, sum(seen.values()) // 100)
"""


def test_a_task_costs_few_calls_of_audit_hooks(evidence: Evidence) -> None:
    """What watches files is such a hook: each call of it takes as long as several of ours."""
    alone = int(python(COUNTED).split()[1])
    of_id, calls = map(int, python(COUNTED, evidence).split())
    added = 4 if hasattr(sys, "monitoring") else 9  # 3.11 has wrappers, which ask for frames
    assert (0, True) == (of_id, calls <= alone + added), (alone, of_id, calls)


@pytest.mark.parametrize(
    ("file", "watched"),
    [
        ("site-packages/maker.py", True),
        ("maker.py", False),  # the reader's own
        ("site-packages/other.py", False),
    ],
)
def test_making_of_futures_is_watched_once_an_installed_library_may_make_them(
    tmp_path: Path, evidence: Evidence, file: str, watched: bool
) -> None:
    """Each task of an executor has a future: most programs need not pay for that."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    makes = "from concurrent.futures import Future\n" if path.stem == "maker" else "import json\n"
    path.write_text(makes)
    code = f"""
    import concurrent.futures.process, sys
    sys.path.insert(0, {str(path.parent)!r})
    before = concurrent.futures.Future.__init__
    import {path.stem}
    from workercheck.recorder import monitor
    made = concurrent.futures.Future.__init__
    print(made is not before or made.__code__ in monitor._codes.values())  # wrapped on Python 3.11
    """
    assert f"{watched}\n" == python(code, evidence)


@pytest.mark.skipif(
    not hasattr(sys, "monitoring"), reason="on Python 3.11 the recorder is complete before any code"
)
def test_recorder_that_cannot_watch_says_so(evidence: Evidence) -> None:
    """The fault: something of the recorder is broken. It is no reason to be silent."""
    code = """
    import workercheck.recorder.roles as roles
    roles.start = None
    import multiprocessing
    """
    python(code, evidence)
    failed = [event for event in evidence.read() if isinstance(event, ev.RecorderFailed)]
    assert ["the functions of libraries"] == [event.what for event in failed]


def test_program_with_an_emptied_environment_is_watched(evidence: Evidence) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], env={'A': 'b'})"
    python(code, evidence)
    started = [event.pid for event in evidence.read() if isinstance(event, ev.ProcessStarted)]
    (child,) = [event.child for event in evidence.read() if isinstance(event, ev.ChildStarted)]
    assert child in started


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="new in Python 3.12")
def test_every_number_of_sys_monitoring_is_free_for_the_page(evidence: Evidence) -> None:
    code = """
    import math, multiprocessing, sys

    assert [None] * 6 == [sys.monitoring.get_tool(number) for number in range(6)]
    for number in range(5):
        sys.monitoring.use_tool_id(number, "mine")
    process = multiprocessing.get_context("fork").Process(target=math.sqrt, args=(-1,))
    process.start()
    process.join()
    """
    assert "AssertionError" not in python(code, evidence)
    assert 1 == len([event for event in evidence.read() if isinstance(event, ev.Unseen)])


def test_evidence_that_cannot_be_written_is_noticed(evidence: Evidence) -> None:
    evidence.file.unlink()
    evidence.file.symlink_to("/dev/full")
    code = TRANSPORT.format(message=b"c__main__\nsphere\n.") + (
        "try:\n    receiver.recv()\nexcept AttributeError:\n    print('as ever')"
    )
    assert "as ever\n" == python(code, evidence)
    evidence.file.unlink()
    evidence.file.touch()
    assert [ev.Damaged] == [type(event) for event in evidence.read()]


def test_program_may_replace_repr(evidence: Evidence) -> None:
    code = """
    import builtins, math, multiprocessing

    builtins.repr = None
    process = multiprocessing.get_context("fork").Process(target=math.sqrt, args=(-1,))
    process.start()
    process.join()
    """
    python(code, evidence)
    assert 1 == len([event for event in evidence.read() if isinstance(event, ev.Unseen)])


def test_names_in_a_message() -> None:
    message = pickle.dumps([pathlib_path := Path("x"), ValueError("y")])
    del pathlib_path
    names = list(_failure.names_in(message, pickletools.genops))
    assert "builtins.ValueError" in names
    assert any(name.endswith("Path") for name in names)
    # Cut anywhere, it is read as far as it goes.
    assert all(
        set(_failure.names_in(message[:end], pickletools.genops)) <= set(names)
        for end in range(len(message))
    )


def test_torn_and_foreign_lines_are_damage(evidence: Evidence) -> None:
    good = ev.dumps(ev.ShutdownStarted(pid=1, time=1.0))
    events = ev.loads(
        "\n".join([good, good[:-4], '{"event": "shutdown-started", "pid": "x", "time": 1}', "[]"])
    )
    assert [ev.ShutdownStarted, ev.Damaged, ev.Damaged, ev.Damaged] == [
        type(event) for event in events
    ]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["-m", "joblib.externals.loky.backend.popen_loky_posix", "--pipe", "3"], True),
        (["-B", "-X", "dev", "-m", "ipyparallel.engine"], True),
        (["-u", "-m", "anyio.to_process"], True),
        (["-m", "mpi4py.futures", "script.py"], True),
        (["-m", "dask", "worker"], True),
        (["-c", "from multiprocessing.forkserver import main; main(3)"], True),
        (["-c", "import sys; from multiprocess.spawn import spawn_main; spawn_main()"], True),
        (["bin/dask-worker", "tcp://here:1"], True),
        (["lib/python3.14/site-packages/ray/_private/workers/default_worker.py"], True),
        (["my_worker.py"], False),
        (["engine.py", "multiprocessing"], False),
        (["-m", "multiprocessing_demo"], False),
        (["-m", "pytest", "tests/test_worker.py"], False),
        (["-c", "import multiprocessing; main()"], False),
        ([], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_worker_is_told_by_whose_program_it_runs(command: list[str], expected: bool) -> None:
    assert this_process.is_workers_command(["python", *command]) is expected


@pytest.mark.parametrize("breaks", [True, False])
def test_task_that_a_breaking_pool_still_sends_keeps_its_place(breaks: bool) -> None:
    class Queue:
        def __init__(self) -> None:
            self.pending_work_items: dict[int, object] = {3: Task()}

        def failed(self) -> None: ...

    class Task:
        work_id = 3
        future = Future[int]()

    def feed(onerror: object) -> int:
        return sent_later.queued_object(sys._getframe(), Task())

    queue = Queue()
    handles.register(Task.future, "future", 17, owned=True)
    assert feed(queue.failed) == 17
    if breaks:
        assert sent_later.doomed_places(queue.pending_work_items) == [17]
    queue.pending_work_items.clear()
    assert feed(queue.failed) == (17 if breaks else 0)
    sent_later.forget()
    handles.forget()


@pytest.mark.parametrize("how", ["a pool that breaks", "the thread of a pool"])
def test_place_of_a_task_whose_submit_has_not_returned(how: str) -> None:
    class Task:
        future = Future[int]()

    def sends(cache: dict[int, Future[int]]) -> int:
        return sent_later.pool_task(sys._getframe(), (0, 0, abs, (), {}))

    note = threading.Timer(0.05, handles.register, (Task.future, "future", 17), {"owned": True})
    note.start()
    if how == "a pool that breaks":
        assert sent_later.doomed_places({0: Task()}) == [17]
    else:
        assert sends({0: Task.future}) == 17
    note.join()
    sent_later.forget()
    handles.forget()


# --- a process that ends by itself ----------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_process_ends_by_itself_once_it_has_exited() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert not signals.ends_by_itself(child.pid)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert signals.ends_by_itself(child.pid)  # a zombie
    child.wait()
    assert signals.ends_by_itself(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_process_that_somebody_else_waited_for_is_not_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(1,))
    monkeypatch.setattr(waiting, "_owners", [lambda: process])
    process.start()
    os.waitpid(process.pid, 0)
    assert process.is_alive()  # multiprocessing was never told
    assert not waiting.is_busy()


@pytest.mark.parametrize(("flags", "ends"), [("4194304", False), ("4194308", True)])
def test_process_that_the_system_is_taking_down_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, ends: bool
) -> None:
    """Its connections are closed by then, and its parent may already have noticed that."""
    stat = tmp_path / "stat"
    stat.write_text(f"7 (a (name) of) R 1 7 7 0 -1 {flags} 0 0")
    monkeypatch.setattr(signals, "_open", lambda path, mode: stat.open(mode))
    assert ends == signals.ends_by_itself(7)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("kill 12", [(12, 15)]),
        (["kill", "-9", "12", b"13"], [(12, 9), (13, 9)]),
        ("true && /bin/kill -s KILL -- -12; kill -SIGINT 13", [(12, 9), (13, 2)]),
        (["sh", "-c", "sleep 1 | kill --signal=TERM 12"], [(12, 15)]),
        ("kill -0 12", []),
        ("kill -NOSUCH 12", []),
        ("skill 12; echo kill; overkill -9 13; kill $PID", []),
        (None, []),
    ],
)
def test_command_that_ends_processes(
    monkeypatch: pytest.MonkeyPatch, words: object, sent: list[tuple[int, int]]
) -> None:
    found = []
    monkeypatch.setattr(signals, "_sent", set())
    monkeypatch.setattr(signals, "ends_by_itself", lambda pid: False)
    monkeypatch.setattr(signals, "_members_of", lambda group: set())
    monkeypatch.setattr(
        signals, "_write_signal", lambda child, number, **_: found.append((child, number))
    )
    signals.command_runs(words, sys._getframe())
    assert found == sent


def test_each_handler_of_a_function_wrapped_twice_gets_its_caller() -> None:
    """Python 3.11 wraps the functions that it watches, once for each handler."""
    callers = []

    class Owner:
        def method(self) -> None:
            pass

    for _ in range(2):
        monitor311.replace(Owner, "method", "start", lambda call, _: callers.append(call.f_back))
    Owner().method()
    assert [sys._getframe()] * 2 == callers


@pytest.mark.parametrize(
    "error", [ValueError("no 'x'"), KeyError("a"), OSError(), ValueError("f(x)"), ValueError(1, 2)]
)
def test_error_is_known_by_its_repr(error: Exception) -> None:
    """A scheduler of Dask tells no more of work whose future is gone."""
    message = str(error.args[0]) if len(error.args) == 1 else repr(error.args)[1:-1]
    assert (type(error).__name__, message) == keyed.of_repr(repr(error))
