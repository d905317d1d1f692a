"""Whether an object of the page reaches a worker, and the finding where it does not."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from workercheck.judge import hints
from workercheck.judge.finding import Finding, FindingKind
from workercheck.lint.cells import Code
from workercheck.lint.values import Instance, Made, Own, own_of

_DEFAULT = "the default start method (forkserver on Linux since Python 3.14, spawn elsewhere)"


def executor_name(made: Made) -> str:
    """Return the public name of an executor."""
    return f"{made.carrier.modules[0]}.{made.carrier.name}"


def lost(thing: Own | Instance, made: Made, *, is_task: bool) -> FindingKind | None:
    """Tell how an object is lost, None where it arrives or where nothing tells.

    Parameters
    ----------
    thing
        The object, or one of whose class it is.
    made
        What it is handed to.
    is_task
        Whether it is pickled under each start method, as a task is, and not only where the worker
        is no copy of the page.
    """
    own = own_of(thing)
    if own.reduces:
        return None
    if made.library.by_value:
        cached = next(_cached_in(own, set()), None)
        if cached is None or not own.is_main:
            return None
        return "pickle-task" if cached.is_local else "unpickle-task"
    method = made.start.method
    if own.is_local:
        return "pickle-task" if is_task or method in ("forkserver", "spawn") else None
    if own.is_importable or method not in ("forkserver", "spawn"):
        return None
    return "unpickle-task"


def _cached_in(own: Own, seen: set[int]) -> Iterator[Own]:
    """Yield each cached function that is sent by name where something is sent by value."""
    if id(own) in seen:
        return
    seen.add(id(own))
    if own.is_cached:
        yield own
        return
    for value in own.attributes.values():
        if isinstance(value, Own):
            yield from _cached_in(value, seen)
    for node in ast.walk(own.node):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            value = own.scope.find(node.id)
            if isinstance(value, Own):
                yield from _cached_in(value, seen)


def finding(
    kind: FindingKind, thing: Own | Instance, made: Made, code: Code, line: int, through: str
) -> Finding:
    """Word the finding about an object that is lost.

    Parameters
    ----------
    kind, thing, made
        As for, and from, `lost`.
    code, line
        The cell that runs, and the line that hands the object out.
    through
        The package that hands it on, empty where the page does so itself.
    """
    own = own_of(thing)
    if made.library.by_value:
        own = next(_cached_in(own, set()), own)
    where = "page" if code.index is not None else "script"
    executor = executor_name(made)
    name = f"__main__.{own.name}"
    what = f"{name}, a {own.kind} of the {where},"
    if isinstance(thing, Instance):
        what = f"an object of {what}"
    short = own.name.rpartition(".")[2]
    if kind == "pickle-task":
        message = f"{what} cannot be pickled, and is never sent, for {executor}"
        hint = hints.unpicklable(short)
    else:
        message = f"a worker cannot unpickle {what} sent through {executor}"
        if made.library.by_value:
            message += ", because pickle stores a cached function as a name"
        elif made.start.is_default:
            message += f" under {_DEFAULT}"
        elif made.library.start_method != made.start.method:
            message += f" under {made.start.method}"
        hint = hints.by_value(short, executor, through)
    return Finding(
        kind,
        f"{code.label}: {message}" if code.label else message,
        line,
        cell=code.index,
        expected=code.expects_worker_error,
        object=name,
        hint=hint,
    )


def without_guard(code: Code, line: int, made: Made) -> Finding:
    """Word the finding about a script whose workers would run it once more."""
    return Finding(
        "unpickle-task",
        "a worker cannot import the script, which would hand out work to "
        f"{executor_name(made)} while it is imported",
        line,
        cell=code.index,
        expected=code.expects_worker_error,
        object="__main__",
        hint=hints.GUARD,
    )
