"""The events of a run as typed records: one line of JSON each.

An event is written by the recorder inside a process of the run, or by `workercheck.run` from
outside. This module reads and writes them; what they mean is decided in `workercheck.judge`.
"""

from __future__ import annotations

import dataclasses as dc
import json
import types
import typing
from typing import Any, ClassVar


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The part that all events share."""

    event: ClassVar[str]
    pid: int
    time: float
    """Seconds since the machine's start where the system tells them, else since the epoch."""


# --- written by the recorder, inside a process of the run ----------------------------------------


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStarted(Event):
    """A process of the run is watching: written after the recorder was in place, never before."""

    event: ClassVar[str] = "process-started"
    ppid: int
    group: int
    """The process group."""
    argv: list[str]
    python: str
    executable: str
    forked: bool


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class RecorderFailed(Event):
    """The recorder in a process could not watch something it should watch."""

    event: ClassVar[str] = "recorder-failed"
    what: str
    reason: str


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Place(Event):
    """A place in the reader's code handed work out for the first time, on behalf of one cell."""

    event: ClassVar[str] = "place"
    id: int
    """Other events of the same process (pid) name the place by this number, from 1 on."""
    file: str
    """The file of the innermost frame of the reader's code, empty where none was on the stack."""
    line: int
    text: str
    """The line of code itself where it is a part of a page, and *line* that of its directive, or of
    the text of ``python -c``; empty for code of a file."""
    whole: str
    """The whole text of which a tool made the code, a block of a page for one; empty for code of a
    file, and where nobody knows the text."""
    cell: str | None
    """Message id of the cell on whose behalf the code ran, None outside a kernel."""
    number: int | None
    """Execution count of the cell in which the code stands, None for code of a file."""
    test: str | None
    """The id of the pytest test that ran in the process, or started it."""
    executor: str
    """``module.class`` of what the work was handed to."""
    through: str
    """The package that handed it on for the reader's code, empty where that did it itself."""
    names: list[str]
    """The function, those that it wraps, and functions among its arguments."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class PlaceWithin(Event):
    """What a worker handed out at a place on behalf of a message failed."""

    event: ClassVar[str] = "place-within"
    id: int
    """Other events of the same process name both by this number, as they name a place."""
    place: int
    fingerprint: int
    """Of the message that the worker worked on."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed(Event):
    """A message could not be unpickled."""

    event: ClassVar[str] = "load-failed"
    stack: list[list[str]]
    """``[module, function]``, from the caller of ``loads`` outwards."""
    interpreter: int
    """0 for the main interpreter of its process."""
    fingerprint: int
    """Of the bytes of the whole message, or the number of its work; 0 where they came from a file.

    See `workercheck.recorder.mapped`."""
    exception: str
    message: str
    name: str | None
    """The attribute or module that was not found."""
    globals: list[str]
    """``module.qualname`` of what the message refers to, in order."""
    raised_in: str | None
    importing: str | None
    """The module during whose import the load failed, None where it failed elsewhere."""
    found: str | None
    """What was found under the name in the message, and is something else."""
    traceback: str
    cell: str | None
    """Message id of the cell, in a kernel."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class LoadRetried(Event):
    """A message that could not be loaded was loaded after all, in the same interpreter."""

    event: ClassVar[str] = "load-retried"
    interpreter: int
    fingerprint: int


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class PickleFailed(Event):
    """A message could not be pickled, so that it never left."""

    event: ClassVar[str] = "pickle-failed"
    stack: list[list[str]]
    place: int
    """Of the work that the message would have carried, 0 where it is not known."""
    reply_to: int
    """For a result: the fingerprint of the message with the task, else 0."""
    is_result: bool
    exception: str
    message: str
    object: str | None
    """What the message would have carried."""
    raised_in: str | None
    traceback: str
    cell: str | None


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(Event):
    """A process started another one."""

    event: ClassVar[str] = "child-started"
    child: int
    place: int
    target: str | None
    """The function that it runs, for a process of `multiprocessing`."""
    argv: list[str]
    """For a program, its first words; none for one that another run watches."""
    owned: bool
    """Whether the reader's own code started it, not a library."""
    pool: int
    """The number under which its parent handed work out to the pool that it is of, else 0."""
    replaces: bool
    """Whether it takes the place of a worker of the same pool that failed."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class SignalSent(Event):
    """A process of the run sent a signal to another process, or to a group."""

    event: ClassVar[str] = "signal-sent"
    child: int
    is_group: bool
    signal: int
    owned: bool
    """Whether the reader's own code asked for it."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Exited(Event):
    """A parent learned that a child did not exit with 0."""

    event: ClassVar[str] = "exited"
    child: int
    exitcode: int
    target: str | None
    """The function that the process ran."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class DeathSeen(Event):
    """Somebody read the exit code of a process that a signal had ended."""

    event: ClassVar[str] = "death-seen"
    child: int


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class PoolBroken(Event):
    """An executor gave up its workers."""

    event: ClassVar[str] = "pool-broken"
    executor: str
    pids: list[int]
    ended: list[int]
    """Those that had ended by then; the others are about to be ended."""
    doomed: list[int]
    """The places of the work that was under way, 0 for one that is not known."""
    message: str


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Raised(Event):
    """An error ended a process of `multiprocessing`, or a thread that serves an executor."""

    event: ClassVar[str] = "raised"
    what: str
    """``process``, ``initializer``, ``service-thread``, or ``callback``, whose error an executor
    kept to itself."""
    place: int
    exception: str
    message: str
    function: str | None
    """The function that raised, as ``module.qualname``."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Unseen(Event):
    """Work failed, and until the end of its process nobody looked at it."""

    event: ClassVar[str] = "unseen"
    what: str
    """``future``, ``collection`` of futures, ``result`` of a Pool, ``task``, ``remote task`` or
    ``process``."""
    place: int
    exception: str | None
    message: str
    count: int
    """How many pieces of work of this place failed in the same way."""
    child: int | None
    """The pid, for a process."""
    request: int
    """The message with which another process, which holds the handle, asked for the work, else 0.
    A `Seen` may follow."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Event):
    """Who had asked for work of another process has looked at its failure after all."""

    event: ClassVar[str] = "seen"
    request: int
    """As in the `Unseen` before it."""
    child: int | None
    """The pid of the process that did the work, None where it is the one that writes this, 0 where
    nothing tells which it was."""
    exception: str | None
    message: str
    """What was seen, where it may be the failure of other work, of which the request was."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished(Event):
    """Work never had a result: its library gave it up, or the process ended before."""

    event: ClassVar[str] = "unfinished"
    place: int
    is_given_up: bool
    """Whether the library gave it up, because too many workers died of it."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class FileRan(Event):
    """A process began to run a file that is not installed: a module, or a script."""

    event: ClassVar[str] = "file-ran"
    path: str
    """Absolute; of the archive, for a module in one."""
    size: int
    """In bytes, -1 where there is no such file."""
    modified: int
    """When it was last modified, in nanoseconds since the epoch, -1 where there is no such file."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class FileRead(Event):
    """A process opened a file of the project, and may have read it."""

    event: ClassVar[str] = "file-read"
    path: str
    """Absolute, without symbolic links; empty where nobody knows which file it was."""
    size: int
    """In bytes, -1 where nobody knows which file it was."""
    modified: int
    """When it was last modified, in nanoseconds since the epoch, -1 as above."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class FileWritten(Event):
    """A process opened a file to write it, moved one there, or removed it."""

    event: ClassVar[str] = "file-written"
    path: str
    """Absolute, without symbolic links."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class MarkedTest(Event):
    """A test of pytest with the marker ``expect_worker_error`` begins, or is over and passed."""

    event: ClassVar[str] = "marked-test"
    test: str
    """Its id, as in `Place`."""
    file: str
    line: int
    is_over: bool


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class LastWords(Event):
    """A kernel that was asked, after the last cell, has told all that there is to tell."""

    event: ClassVar[str] = "last-words"
    token: str
    """The word with which it was to answer, which nobody else in the kernel knows."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class KernelStarted(Event):
    """A kernel starts that a program of the run asked for."""

    event: ClassVar[str] = "kernel-started"
    cwd: str
    """The folder in which it runs, empty where that is not known."""
    session: str
    """The path of its notebook where Jupyter tells it the kernel, else empty."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class KernelLaunched(Event):
    """A program has started a kernel, in calls that name notebooks."""

    event: ClassVar[str] = "kernel-launched"
    child: int
    """The pid of the kernel."""
    notebooks: list[list[str]]
    """Paths in the local variables of each of those calls, from the innermost call outwards."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class KernelShutdown(Event):
    """A program is about to shut a kernel of its own down, as `ShutdownStarted` for that kernel."""

    event: ClassVar[str] = "kernel-shutdown"
    child: int
    """The pid of the kernel."""


# --- written from outside -------------------------------------------------------------------------


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class CellStarted(Event):
    """The kernel was asked to run a code cell."""

    event: ClassVar[str] = "cell-started"
    cell: int


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class CellFinished(Event):
    """The kernel answered. *exception* is None where the cell passed."""

    event: ClassVar[str] = "cell-finished"
    cell: int
    message_id: str
    number: int | None
    """The execution count, None where the kernel gave none."""
    exception: str | None
    message: str
    causes: str
    """The traceback as plain text, where the cell failed."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class CellTimedOut(Event):
    """A cell ran longer than *timeout* seconds."""

    event: ClassVar[str] = "cell-timeout"
    cell: int
    timeout: float


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class KernelDied(Event):
    """The kernel ended by itself, or never came up."""

    event: ClassVar[str] = "kernel-died"
    cell: int | None
    message: str


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """The page was stopped in *cell*, because it had failed already and went on waiting."""

    event: ClassVar[str] = "stopped"
    cell: int


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Unwatched(Event):
    """A Python process of the run runs without the recorder."""

    event: ClassVar[str] = "unwatched"
    child: int
    command: str
    environment: str | None
    """The folder of its environment, None where it is the kernel's own."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class EndedAtWork(Event):
    """A process is gone, and had a message to load or to work on.

    Its mapped bytes say so, or its library does.
    """

    event: ClassVar[str] = "ended-at-work"
    child: int
    """0 where its library does not tell which process it was."""
    is_loading: bool
    fingerprint: int
    globals: list[str]


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class MessageSent(Event):
    """Who sent the message with a fingerprint, as the mapped bytes of its sender say."""

    event: ClassVar[str] = "message-sent"
    fingerprint: int
    to: int
    """The pid of the process with the event that this explains: others may get the same bytes."""
    sender: int
    """The pid of the sender."""
    place: int
    """A place of the sender, 0 where it is not known."""
    reply_to: int
    """For a result: the fingerprint of the message with the task, else 0."""
    within: int
    """For what a worker handed out: the fingerprint of what it worked on, else 0."""
    corrects: bool
    """Whether it takes the place of an earlier answer: a worker may fail before the process that
    handed its work out has noted from where."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered(Event):
    """The kernel was asked for its last words and did not answer."""

    event: ClassVar[str] = "unanswered"


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownStarted(Event):
    """The kernel is about to be shut down: what ends from here on was asked to end."""

    event: ClassVar[str] = "shutdown-started"


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Leftover(Event):
    """A process outlived its kernel and had to be ended."""

    event: ClassVar[str] = "leftover"
    child: int
    parents: list[int]
    """The processes above it while the run went on, the nearest first."""
    command: str
    born: float
    """When it began, by the clock of the events."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class KernelAnswered(Event):
    """The kernel of a page answers."""

    event: ClassVar[str] = "kernel-answered"
    environment: str
    """The folder of its Python environment; empty where its command is no Python."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The run is over, and the evidence complete."""

    event: ClassVar[str] = "finished"
    date: float
    """When it was over, in seconds since the epoch."""
    seconds: float
    language: str
    """The language of the kernel, as it says itself; only Python can be watched."""
    interrupted: bool = False
    """Whether a signal from outside ended a command."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Damaged(Event):
    """Evidence was lost: a line that cannot be read, or one that could not be written."""

    event: ClassVar[str] = "damaged"
    reason: str


# With slots, dataclass makes each class anew; the last of a name is the one that stayed.
EVENT_TYPES: dict[str, type[Event]] = {cls.event: cls for cls in Event.__subclasses__()}
"""The classes of events, by name."""

_FIELDS: dict[str, dict[str, Any]] = {
    name: {
        field: hint
        for field, hint in typing.get_type_hints(cls).items()
        if typing.get_origin(hint) is not ClassVar
    }
    for name, cls in EVENT_TYPES.items()
}


def parse(line: str) -> Event:
    """Read one event; what is no event becomes `Damaged`, never an exception."""
    try:
        fields: dict[str, Any] = json.loads(line)
        name = fields.pop("event")
        wanted = _FIELDS[name]
        if wanted.keys() != fields.keys():
            raise ValueError(f"fields {sorted(wanted.keys() ^ fields.keys())}")
        for field, value in fields.items():
            if not _has_type(value, wanted[field]):
                raise ValueError(f"{field} is {value!r}"[:80])
        return EVENT_TYPES[name](**fields)
    except Exception as exc:
        return Damaged(pid=0, time=0.0, reason=f"{type(exc).__name__} in the line {line[:80]!r}")


def _has_type(value: object, hint: Any) -> bool:
    """Tell whether a value read from JSON is of the type that a field declares."""
    if type(value) is hint:
        return True
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return any(_has_type(value, option) for option in typing.get_args(hint))
    if origin is list:
        (item,) = typing.get_args(hint)
        return type(value) is list and all(_has_type(one, item) for one in value)
    return hint is float and type(value) is int


def loads(text: str) -> list[Event]:
    """Read the events of a whole file."""
    return [parse(line) for line in text.splitlines() if line.strip()]


def dumps(event: Event) -> str:
    """Return the event as one line of JSON, without the newline."""
    return json.dumps({"event": event.event, **dc.asdict(event)})
