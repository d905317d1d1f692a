"""The events of a page's run and the findings about it, as typed records.

An event is one line of JSON in the page's ``events.jsonl``, written by the recorder inside a
process of the page or by `workercheck.run.notebook` from outside. This module reads and writes
them; what they mean is decided in `workercheck.judge.rules`.
"""

from __future__ import annotations

import dataclasses as dc
import json
from typing import Any, ClassVar


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The part that all events share."""

    event: ClassVar[str]
    pid: int
    time: float
    """Seconds since the epoch."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Event):
    """A process of the page started with the recorder in it."""

    event: ClassVar[str] = "hello"
    ppid: int
    argv: list[str]
    python: str
    executable: str
    forked: bool


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed(Event):
    """A message could not be unpickled."""

    event: ClassVar[str] = "load-failed"
    stack: list[list[str]]
    """``[module, function]``, from the caller of ``loads`` outwards."""
    interpreter: int
    """0 for the main interpreter of its process."""
    exception: str
    message: str
    name: str | None
    """The attribute or module that was not found."""
    globals: list[str]
    """``module.qualname`` of what the message refers to, in order."""
    raised_in: str | None
    traceback: str
    cell: str | None
    """Message id of the cell, in a kernel."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(Event):
    """Work was handed to an executor."""

    event: ClassVar[str] = "submitted"
    executor: str
    names: list[str]
    cell: str | None


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class PoolBroken(Event):
    """An executor gave up its workers."""

    event: ClassVar[str] = "pool-broken"
    executor: str
    pids: list[int]
    ended: list[int]
    """Those that had ended by then; the others are about to be ended."""
    exception: str | None
    message: str


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Terminated(Event):
    """A worker was ended on purpose, by the page or by its executor."""

    event: ClassVar[str] = "terminated"
    child: int


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Exited(Event):
    """A parent reaped a worker that did not exit with 0 and that it had not ended itself."""

    event: ClassVar[str] = "exited"
    child: int
    exitcode: int
    target: str | None
    """The function that the process ran, an executor's own for a worker of one."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Unseen(Event):
    """Work failed, and until the end of the page nobody looked at it."""

    event: ClassVar[str] = "unseen"
    what: str
    """``future``, ``result`` (of a Pool), ``task`` or ``process``."""
    cell: str
    names: list[str]
    exception: str | None
    message: str
    child: int | None
    """The pid, for a process."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Modules(Event):
    """Paths and SHA-256 of the modules that the page imported from outside the environment."""

    event: ClassVar[str] = "modules"
    files: dict[str, str]


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
    """A Python process of the page runs without the recorder."""

    event: ClassVar[str] = "unwatched"
    child: int
    command: str


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class DiedLoading(Event):
    """A process is gone, and its byte says that it was unpickling a message."""

    event: ClassVar[str] = "died-loading"
    child: int
    globals: list[str]


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Closing(Event):
    """The kernel is about to be shut down: what workers print from here on is their end."""

    event: ClassVar[str] = "closing"


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Leftover(Event):
    """A process outlived its kernel and had to be ended."""

    event: ClassVar[str] = "leftover"
    child: int
    command: str


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The run of the page is over, and the evidence complete."""

    event: ClassVar[str] = "finished"
    seconds: float
    language: str
    """The language of the kernel, as it says itself; only Python can be watched."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Damaged(Event):
    """Evidence was lost: a line that cannot be read, or one that could not be written."""

    event: ClassVar[str] = "damaged"
    reason: str


# With slots, dataclass makes each class anew; the last of a name is the one that stayed.
EVENT_TYPES: dict[str, type[Event]] = {cls.event: cls for cls in Event.__subclasses__()}
"""The classes of events, by name."""


def parse(line: str) -> Event:
    """Read one event; what is no event becomes `Damaged`, never an exception."""
    try:
        fields: dict[str, Any] = json.loads(line)
        cls = EVENT_TYPES[fields.pop("event")]
        wanted = {field.name for field in dc.fields(cls)}
        if wanted != set(fields):
            raise ValueError(f"fields {sorted(wanted ^ set(fields))}")
        if type(fields["pid"]) is not int or not isinstance(fields["time"], int | float):
            raise ValueError("pid or time")
        return cls(**fields)
    except Exception as exc:
        return Damaged(pid=0, time=0.0, reason=f"{type(exc).__name__} in the line {line[:80]!r}")


def loads(text: str) -> list[Event]:
    """Read the events of a whole file."""
    return [parse(line) for line in text.splitlines() if line.strip()]


def dumps(event: Event) -> str:
    """Return the event as one line of JSON, without the newline."""
    return json.dumps({"event": event.event, **dc.asdict(event)})
