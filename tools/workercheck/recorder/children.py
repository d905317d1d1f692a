"""Threads and programs that a watched process starts: on whose behalf, and that they are watched.

Each handler is called with the frame of a function of the standard library, see
`workercheck.recorder.roles`.
"""

from __future__ import annotations

import os
import sys

from workercheck.recorder import behalf, events, frameless, frames, messages, places, signals

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any


def thread_starts(frame: FrameType, _: Any) -> None:
    """Note on whose behalf a thread starts."""
    behalf.remember_thread(frame.f_locals["self"], frame.f_back)


def program_started(frame: FrameType, _: Any) -> None:
    """Write who started a program."""
    here = frame.f_locals
    popen: Any = here["self"]
    args = here.get("args")
    words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args or ())
    if _is_of_another_run(here.get("env")):
        words = []
    events.write(
        "child-started",
        child=popen.pid,
        place=places.within(places.place(frame.f_back, "subprocess"), messages.loaded()),
        target=None,
        argv=[events.text(os.fsdecode(word))[:200] for word in words[:8]],
        owned=frames.is_reader_behind(frame.f_back),
        pool=0,
        replaces=False,
    )


def _is_of_another_run(environment: Any) -> bool:
    """Tell whether a program writes its events elsewhere, as what `workercheck` runs does."""
    try:
        folder = environment[events.ENV]
    except (KeyError, TypeError):
        return False
    return not os.path.join(os.fsdecode(folder), "").startswith(os.path.join(events.folder, ""))


def watch_programs(module: Any) -> None:
    """Hand the variable that switches the recorder on to programs with an environment of their own.

    `subprocess` and `multiprocessing` start programs with a function of this module.
    """
    real = module.fork_exec
    module.fork_exec = _starts_program(real, words=0, environment=5, is_list=True)
    subprocess: Any = sys.modules.get("subprocess")
    if subprocess is not None and getattr(subprocess, "_fork_exec", None) is real:
        subprocess._fork_exec = module.fork_exec


def watch_starts(os: Any) -> None:
    """Do the same for the functions of `os` that take an environment.

    A command may be one that ends a process, whichever function runs it.
    """
    for name in ("posix_spawn", "posix_spawnp", "execve"):
        if hasattr(os, name):
            frameless.replace(os, name, _starts_program(getattr(os, name), words=1, environment=2))
    for name, words in (("execv", 1), ("system", 0)):
        frameless.replace(os, name, _starts_program(getattr(os, name), words=words))


def _starts_program(
    real: Any, *, words: int, environment: int | None = None, is_list: bool = False
) -> Any:
    """Wrap a function among whose arguments are the words of a command and its environment."""

    def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:
        try:
            if len(args) > words:
                signals.command_runs(args[words], sys._getframe(1))
            if environment is not None and len(args) > environment:
                variables = _with_variable(args[environment], is_list=is_list)
                args = (*args[:environment], variables, *args[environment + 1 :])
            return real(*args, **kwargs)
        except BaseException as exc:
            return frameless.raise_later(cls, exc)

    return frameless.wrapper(real, __new__)


def _with_variable(environment: Any, *, is_list: bool) -> Any:
    """Return the environment of a program with the variable, in the form in which it was given.

    One that was not given, as the program gets that of this process, becomes a list of words where
    the function takes such a list, and a mapping elsewhere.
    """
    name = events.ENV
    try:
        if environment is None:
            if os.environ.get(name) == events.folder:
                return None
            environment = dict(os.environ)
            if is_list:
                environment = [os.fsencode(f"{key}={it}") for key, it in environment.items()]
        if hasattr(environment, "keys"):
            # Not asked for the bytes: `os.environ` takes only text.
            known = not {name, os.fsencode(name)}.isdisjoint(environment.keys())
            return environment if known else {**environment, name: events.folder}
        if not hasattr(environment, "__iter__"):
            return environment  # the function itself says what is wrong with it
        entry = os.fsencode(name) + b"="
        if any(one.startswith(entry) for one in environment):
            return environment
        return [*environment, entry + os.fsencode(events.folder)]
    except Exception as exc:
        events.failed("a program with an environment of its own", exc)
        return environment
