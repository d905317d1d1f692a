"""The recorder in a bare interpreter: it sees failed loads, and nothing else changes."""

from __future__ import annotations

import pickle
import pickletools
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.recorder import failure as _failure
from workercheck.recorder import process as _recorder


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
def test_process_says_hello(evidence: Evidence, options: tuple[str, ...]) -> None:
    python("pass", evidence, *options)
    (hello,) = evidence.read()
    assert isinstance(hello, ev.Hello)
    assert not hello.forked


def test_nothing_happens_without_the_variable() -> None:
    code = "import sys, pickle; print('workercheck.recorder.process' in sys.modules, type(pickle.loads))"
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


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_forked_child_says_hello(evidence: Evidence) -> None:
    python("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: os._exit(0)", evidence)
    assert [False, True] == [e.forked for e in evidence.read() if isinstance(e, ev.Hello)]


def test_death_during_a_load_leaves_its_mark(evidence: Evidence) -> None:
    python(TRANSPORT.format(message=b"cos\n_exit\n(I3\ntR.") + "receiver.recv()", evidence)
    (flight,) = evidence.folder.glob("flight-*")
    data = flight.read_bytes()
    assert 1 == data[0]
    names = _failure.names_in(data[_recorder.FLIGHT_HEADER :], pickletools.genops)
    assert ["os._exit"] == list(names)


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
    good = ev.dumps(ev.Closing(pid=1, time=1.0))
    events = ev.loads(
        "\n".join([good, good[:-4], '{"event": "closing", "pid": "x", "time": 1}', "[]"])
    )
    assert [ev.Closing, ev.Damaged, ev.Damaged, ev.Damaged] == [type(event) for event in events]
