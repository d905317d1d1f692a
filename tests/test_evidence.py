"""The evidence is read once, whole lines only, and nothing that a page does to it raises."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workercheck.evidence import records as ev
from workercheck.evidence.mapped import MappedFiles, Sent
from workercheck.evidence.reader import Evidence
from workercheck.recorder import mapped
from workercheck.run.processes import is_alive


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path).create()


def kinds(events: list[ev.Event]) -> list[str]:
    return [event.event for event in events]


def damages(events: list[ev.Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, ev.Damaged)]


BEGIN = """
import os, pickle, time
from workercheck.recorder import events, mapped

events.folder = {!r}

def load(message, fingerprint=None):
    global doing
    doing = mapped.map_doing()
    doing[16 : 16 + len(message)] = message
    if fingerprint is None:
        fingerprint = mapped.fingerprint(message)
    mapped.pack_doing(doing, 0, mapped.LOADING, fingerprint)

ring = None

def sent(fingerprint, place, reply_to):
    global ring, offsets
    if ring is None:
        ring, offsets = mapped.map_ring(mapped.SENT)
    mapped.pack_record(ring, next(offsets), fingerprint, place, reply_to, events.Kept.clock_ns())

def message_of(doing):
    return mapped.DOING_HEAD.unpack_from(doing)[1]
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process that keeps mapped files in a folder, without being watched."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            BEGIN.format(str(folder)) + textwrap.dedent(code),
        ],
        check=False,
        capture_output=True,
        text=True,
    )


# --- whole lines only -----------------------------------------------------------------------------

text = st.text(max_size=20)
lines = st.lists(
    st.one_of(
        st.builds(ev.CellStarted, pid=st.just(1), time=st.floats(0, 9), cell=st.integers(0, 9)),
        st.builds(ev.RecorderFailed, pid=st.just(1), time=st.floats(0, 9), what=text, reason=text),
    ).map(lambda event: ev.dumps(event).encode())
    | st.binary(max_size=20).map(lambda junk: junk.replace(b"\n", b"")),
    max_size=10,
)


@given(lines, st.lists(st.integers(0, 1000), max_size=10))
def test_chunks_cut_anywhere_give_the_same_events(
    tmp_path_factory, written: list[bytes], cuts: list[int]
) -> None:
    content = b"".join(line + b"\n" for line in written)
    evidence = Evidence(tmp_path_factory.mktemp("evidence")).create()
    begin = 0
    for end in [*sorted(cut for cut in cuts if cut < len(content)), len(content)]:
        with evidence.file.open("ab") as file:
            file.write(content[begin:end])
        begin = end
        before = list(evidence.read())
        assert before == evidence.read()
    assert evidence.read(final=True) == [
        ev.parse(line.decode("utf-8", "backslashreplace")) for line in written if line.strip()
    ]


def test_line_without_an_end_waits_and_is_damage_at_last(evidence: Evidence) -> None:
    evidence.append(ev.ShutdownStarted)
    whole = evidence.file.read_bytes()
    evidence.file.write_bytes(whole + whole[:20])
    assert ["shutdown-started"] == kinds(evidence.read())
    assert ["shutdown-started", "damaged"] == kinds(evidence.read(final=True))
    evidence.append(ev.Finished, date=0.0, seconds=1.0, language="python")
    assert ["shutdown-started", "damaged", "finished"] == kinds(evidence.read())


def test_lines_of_others_and_own_ones_keep_their_order(evidence: Evidence) -> None:
    for cell in range(5):
        with evidence.file.open("a") as file:
            file.write(ev.dumps(ev.Stopped(pid=7, time=1.0, cell=cell)) + "\n")
        evidence.append(ev.CellStarted, cell=cell)
        evidence.read()
    assert ["stopped", "cell-started"] * 5 == kinds(evidence.read(final=True))


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "process-started", "pid": "x"}',
        '{"event": "shutdown-started", "pid": "x", "time": 1.0}',
        '{"event": "shutdown-started", "pid": true, "time": 1.0}',
        '{"event": "cell-started", "pid": 1, "time": 1.0, "cell": [0]}',
        '{"event": "file-ran", "pid": 1, "time": 1.0, "path": "a", "size": 1, "modified": 1.5}',
        '{"event": ["shutdown-started"], "pid": 1, "time": 1.0}',
        '{"event": "nothing", "pid": 1, "time": 1.0}',
        '{"event": "shutdown-started", "pid": 1, "time": 1.0, "more": 1}',
        "[" * 100_000,
        "null",
        "\udc80",
    ],
)
def test_line_that_is_no_event_is_damage(evidence: Evidence, line: str) -> None:
    evidence.append(ev.CellStarted, cell=0)
    with evidence.file.open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    evidence.append(ev.CellStarted, cell=1)
    assert ["cell-started", "damaged", "cell-started"] == kinds(evidence.read(final=True))


def test_events_with_the_right_types_are_none(evidence: Evidence) -> None:
    evidence.append(ev.CellStarted, cell=0)
    evidence.append(ev.Finished, date=0.0, seconds=1, language="python")
    assert [] == damages(evidence.read(final=True))


# --- tampering ------------------------------------------------------------------------------------


def unlink(path: Path) -> None:
    path.unlink()


def replaced_by(target: str) -> Callable[[Evidence], None]:
    def tamper(evidence: Evidence) -> None:
        evidence.file.unlink()
        evidence.file.symlink_to(target)

    return tamper


def a_pipe(evidence: Evidence) -> None:
    evidence.file.unlink()
    os.mkfifo(evidence.file)


def a_folder(evidence: Evidence) -> None:
    evidence.file.unlink()
    evidence.file.mkdir()


def other_lines_of_the_same_length(evidence: Evidence) -> None:
    size = evidence.file.stat().st_size
    evidence.file.write_bytes(b"x" * (size - 1) + b"\n")


TAMPERING: dict[str, Callable[[Evidence], object]] = {
    "emptied": lambda evidence: evidence.file.write_text(""),
    "cut": lambda evidence: os.truncate(evidence.file, 20),
    "a hole": lambda evidence: os.truncate(evidence.file, 1 << 40),
    "gone": lambda evidence: evidence.file.unlink(),
    "a full disk": replaced_by("/dev/full"),
    "without an end": replaced_by("/dev/zero"),
    "a pipe": a_pipe,
    "a folder": a_folder,
    "other lines": other_lines_of_the_same_length,
    "not intact": lambda evidence: (evidence.folder / "intact").unlink(),
    "folder gone": lambda evidence: shutil.rmtree(evidence.folder),
}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_damage_exactly_once(evidence: Evidence, name: str) -> None:
    evidence.append(ev.CellStarted, cell=0)
    assert ["cell-started"] == kinds(evidence.read())
    TAMPERING[name](evidence)
    for cell in (1, 2, 3):
        evidence.append(ev.CellStarted, cell=cell)
        evidence.read()
    events = evidence.read(final=True)
    assert 1 == len(damages(events)), events
    # What was read once is not read again.
    assert 1 == sum(isinstance(event, ev.CellStarted) and event.cell == 0 for event in events)


def test_copy_in_its_place_doubles_nothing(evidence: Evidence) -> None:
    evidence.append(ev.CellStarted, cell=0)
    evidence.read()
    evidence.file.rename(evidence.folder / "old")
    shutil.copy(evidence.folder / "old", evidence.file)
    evidence.append(ev.CellStarted, cell=1)
    assert ["cell-started", "damaged", "cell-started"] == kinds(evidence.read(final=True))


def test_own_line_that_is_missing_is_damage(evidence: Evidence) -> None:
    evidence.append(ev.CellStarted, cell=0)
    other = ev.dumps(ev.CellStarted(pid=1, time=1.0, cell=0))
    evidence.file.write_text(other + "\n")
    assert ["lines are missing that were written"] == damages(evidence.read())


def test_short_write_is_damage(evidence: Evidence, monkeypatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: real(fd, line[:9]))
    evidence.append(ev.CellStarted, cell=0)
    monkeypatch.undo()
    assert 1 == len(damages(evidence.read(final=True)))


def test_untouched_evidence_is_not_damaged(evidence: Evidence) -> None:
    for cell in range(4):
        evidence.append(ev.CellStarted, cell=cell)
        evidence.read()
    assert [] == damages(evidence.read(final=True))


# --- cost -----------------------------------------------------------------------------------------


def test_reading_in_steps_costs_about_as_much_as_reading_once(tmp_path: Path) -> None:
    line = ev.dumps(ev.RecorderFailed(pid=1, time=1.0, what="x" * 50, reason="y" * 50)) + "\n"

    def seconds(steps: int) -> float:
        folder = tmp_path / f"{steps}-{time.monotonic_ns()}"
        folder.mkdir()
        evidence = Evidence(folder).create()
        spent = 0.0
        for _ in range(steps):
            with evidence.file.open("a") as file:
                file.write(line * (10_000 // steps))
            started = time.process_time()
            events = evidence.read()
            spent += time.process_time() - started
        assert 10_000 == len(events)
        return spent

    once, in_steps = (min(seconds(steps) for _ in range(3)) for steps in (1, 100))
    assert in_steps < 2 * once


# --- mapped files ---------------------------------------------------------------------------------


def load_failed(fingerprint: int) -> dict[str, object]:
    return {
        "stack": [],
        "interpreter": 0,
        "fingerprint": fingerprint,
        "exception": "AttributeError",
        "message": "",
        "name": None,
        "globals": [],
        "raised_in": None,
        "importing": None,
        "found": None,
        "traceback": "",
        "cell": None,
    }


def sent(events: list[ev.Event]) -> list[tuple[int, int, int]]:
    return [
        (event.fingerprint, event.place, event.reply_to)
        for event in events
        if isinstance(event, ev.MessageSent)
    ]


TASK = b"the task of the third cell"
RESULT = b"what a worker answered"


@pytest.fixture
def two_processes(evidence: Evidence) -> Evidence:
    """A process has sent a task from its place 3; another one has answered it."""
    python(f"sent(mapped.fingerprint({TASK!r}), 3, 0)", evidence.folder)
    done = python(
        f"""
        task, result = {TASK!r}, {RESULT!r}
        load(task)
        doing[0] = mapped.WORKING
        sent(mapped.fingerprint(result), mapped.REPLY, message_of(doing))
        doing[0] = mapped.IDLE
        """,
        evidence.folder,
    )
    assert "" == done.stderr
    return evidence


@pytest.mark.parametrize("cls", [ev.LoadFailed, ev.EndedAtWork, ev.PickleFailed])
def test_event_is_joined_to_the_sender_of_its_message(two_processes: Evidence, cls: type) -> None:
    task = mapped.fingerprint(TASK)
    fields = load_failed(task)
    if cls is ev.EndedAtWork:
        fields = {"child": 1, "is_loading": True, "fingerprint": task, "globals": []}
    if cls is ev.PickleFailed:
        for name in ("interpreter", "fingerprint", "name", "globals", "importing", "found"):
            del fields[name]
        fields |= {"place": 0, "reply_to": task, "is_result": True, "object": None}
    two_processes.append(cls, **fields)
    assert [(task, 3, 0)] == sent(two_processes.read())
    # It is in the file as well, for whoever reads that later.
    assert "message-sent" == json.loads(two_processes.file.read_text().splitlines()[-1])["event"]


def test_result_is_followed_to_its_task(two_processes: Evidence) -> None:
    task, result = mapped.fingerprint(TASK), mapped.fingerprint(RESULT)
    two_processes.append(ev.LoadFailed, **load_failed(result))
    assert [(result, 0, task), (task, 3, 0)] == sent(two_processes.read())
    two_processes.append(ev.LoadFailed, **load_failed(result))
    two_processes.append(ev.LoadFailed, **load_failed(task))
    assert 2 == len(set(sent(two_processes.read(final=True))))


def test_message_that_nobody_sent_is_looked_up_again_at_the_end(evidence: Evidence) -> None:
    late = mapped.fingerprint(b"late")
    for number in (late, 12345, 0):
        evidence.append(ev.LoadFailed, **load_failed(number))
    assert [] == sent(evidence.read())
    python("sent(mapped.fingerprint(b'late'), 7, 0)", evidence.folder)
    assert [] == sent(evidence.read())
    assert [(late, 7, 0)] == sent(evidence.read(final=True))


@pytest.mark.parametrize("count", [1, mapped.SENT_COUNT - 1, 3 * mapped.SENT_COUNT + 5])
def test_latest_message_with_the_same_bytes_counts(evidence: Evidence, count: int) -> None:
    python(
        f"""
        for place in range(1, {count} + 1):
            sent(99, place, 0)
            sent(1000 + place, 1, 0)
        """,
        evidence.folder,
    )
    files = MappedFiles(evidence.folder)
    assert count == files.who_sent({99})[99].place
    assert {} == files.who_sent({98, 0})


def test_sender_that_knows_its_place_is_preferred(evidence: Evidence) -> None:
    for place in (0, 5, 0):
        python(f"sent(99, {place}, 0)", evidence.folder)
    assert 5 == MappedFiles(evidence.folder).who_sent({99})[99].place


def test_same_bytes_of_programs_side_by_side_are_told_apart(evidence: Evidence) -> None:
    for place in (5, 7):
        python(f"sent(99, {place}, 0)", evidence.folder)
    files = MappedFiles(evidence.folder)
    last = files.who_sent({99})[99]
    pids = {int(path.name.split("-")[1]) for path in evidence.folder.glob("sent-*")}
    (first,) = pids - {last.sender}
    assert (7, 5) == (last.place, files.who_sent({99}, near={first})[99].place)


def test_rings_of_processes_that_are_gone_are_kept_without_their_files(
    two_processes: Evidence,
) -> None:
    task = mapped.fingerprint(TASK)
    before = list(two_processes.folder.glob("sent-*"))
    two_processes.note_ended(is_alive)
    assert 2 == len(before)
    assert [] == list(two_processes.folder.glob("*-*"))
    two_processes.append(ev.LoadFailed, **load_failed(task))
    assert [(task, 3, 0)] == sent(two_processes.read())


STATES = {
    "loading": "",
    "working": "doing[0] = mapped.WORKING",
    "idle": "doing[0] = mapped.IDLE",
}


@pytest.mark.parametrize("state", STATES)
def test_process_that_ends_with_a_message_ended_at_work(evidence: Evidence, state: str) -> None:
    python(
        f"""
        load(pickle.dumps(os.getcwd))
        {STATES[state]}
        os._exit(0)
        """,
        evidence.folder,
    )
    for _ in range(2):  # each once
        evidence.note_ended(is_alive)
    ended = [event for event in evidence.read() if isinstance(event, ev.EndedAtWork)]
    expected = {"loading": [(True, ["posix.getcwd"])], "working": [(False, ["posix.getcwd"])]}
    assert expected.get(state, []) == [(event.is_loading, event.globals) for event in ended]
    assert all(event.fingerprint for event in ended)


def test_long_message_is_named_by_its_beginning(evidence: Evidence) -> None:
    python(
        """
        message = pickle.dumps([os.getcwd, "x" * 100_000, os.getpid])
        mapped.begin_long(mapped.map_doing(), message)
        """,
        evidence.folder,
    )
    evidence.note_ended(is_alive)
    (ended,) = evidence.read()
    assert isinstance(ended, ev.EndedAtWork)
    assert ["posix.getcwd"] == ended.globals


def test_load_from_a_file_does_not_name_what_came_before(evidence: Evidence) -> None:
    python("load(pickle.dumps(os.getcwd), fingerprint=0)", evidence.folder)
    evidence.note_ended(is_alive)
    (ended,) = evidence.read()
    assert isinstance(ended, ev.EndedAtWork)
    assert (0, []) == (ended.fingerprint, ended.globals)


def test_files_of_living_processes_are_left_alone(evidence: Evidence) -> None:
    code = "load(b'x')\nsent(6, 1, 0)\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN.format(str(evidence.folder)) + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        evidence.note_ended(is_alive)
        assert [] == evidence.read()
        assert 2 == len(list(evidence.folder.glob("*-*")))
        # The same pid later is another process.
        path = next(evidence.folder.glob("doing-*"))
        path.rename(evidence.folder / f"doing-{process.pid}-1000000000")
        evidence.note_ended(is_alive)
        assert ["ended-at-work"] == kinds(evidence.read())
        process.communicate(b"\n")


ODD = ["doing-x-1", "sent-", "doing-1-2", "sent-1-2", "doing-0-0", "doing-99999999999999999999-1"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
@pytest.mark.parametrize(
    "make", ["folder", "pipe", "empty", "short", "long", "hole", "link", "closed"]
)
def test_odd_files_are_no_error(evidence: Evidence, make: str) -> None:
    for name in [*ODD, "doing-999999-1", "sent-999999-1"]:
        path = evidence.folder / name
        if make == "folder":
            path.mkdir()
        elif make == "pipe":
            os.mkfifo(path)
        elif make == "link":
            path.symlink_to("/dev/zero")
        else:
            size = {"empty": 0, "short": 7, "long": 1_000_001, "closed": 9000}.get(make, 0)
            path.write_bytes(b"\1" * size)
            if make == "hole":
                os.truncate(path, 1 << 40)
            if make == "closed":
                path.chmod(0)
    for number in (5, 0x0101010101010101):
        evidence.append(ev.LoadFailed, **load_failed(number))
    for _ in range(2):
        evidence.note_ended(is_alive)
        events = evidence.read(final=True)
    assert [] == damages(events)


def test_who_sent_is_none_of_the_senders_business_without_a_folder(tmp_path: Path) -> None:
    files = MappedFiles(tmp_path / "gone")
    assert {} == files.who_sent({5})
    assert [] == list(files.ended_at_work(is_alive))


def test_sent_says_whether_it_is_known() -> None:
    assert [False, True, True] == [
        Sent(1, place, reply_to).is_known for place, reply_to in ((0, 0), (1, 0), (0, 1))
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_reason_names_what_went_wrong(evidence: Evidence) -> None:
    evidence.file.unlink()
    evidence.append(ev.CellStarted, cell=0)
    assert [f"{os.strerror(errno.ENOENT)}: an event could not be written"] == damages(
        evidence.read()
    )
