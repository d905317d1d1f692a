"""Whether an object of the page reaches a worker, and the finding where it does not."""

from __future__ import annotations

import ast
import builtins
import dataclasses as dc
import symtable
from collections.abc import Iterator

from workercheck.judge import hints
from workercheck.judge.finding import Finding, FindingKind
from workercheck.lint.cells import Code
from workercheck.lint.values import Instance, Made, Own, Several, own_of

_BUILTINS = frozenset(dir(builtins))
_DEFAULT = "the default start method (forkserver on Linux since Python 3.14, spawn elsewhere)"


def executor_name(made: Made) -> str:
    """Return the public name of an executor."""
    return f"{made.carrier.modules[0]}.{made.carrier.name}"


@dc.dataclass(frozen=True, slots=True)
class Place:
    """Where work is handed out: the cell that runs, and the line of the call."""

    code: Code
    line: int


def lost(thing: Own | Instance | Several, made: Made, *, is_task: bool) -> FindingKind | None:
    """Tell how an object is lost, None where it arrives or where nothing tells.

    Parameters
    ----------
    thing
        The object, or one of whose class it is, or a generator.
    made
        What it is handed to.
    is_task
        Whether it is pickled under each start method, as a task is, and not only where the worker
        is no copy of the page.
    """
    method = made.start.method
    is_copied = method not in ("forkserver", "spawn", "interpreter")
    if isinstance(thing, Several):
        return "pickle-task" if is_task or not is_copied else None
    own = own_of(thing)
    if own.reduces:
        return None
    if made.library.by_value:
        cached = next(_cached_in(own, set()), None)
        if cached is None or not own.is_main or made.library.caches_by_value or method is None:
            return None
        if own.is_importable and made.library.imports_main:
            return None
        return "pickle-task" if cached.is_local else "unpickle-task"
    if method == "interpreter" and isinstance(thing, Own) and _is_shared(own):
        return None
    if own.is_local:
        return "pickle-task" if is_task or not is_copied else None
    return None if own.is_importable or is_copied else "unpickle-task"


def _is_shared(own: Own) -> bool:
    """Tell whether interpreters share the code of a function, which then needs no pickle."""
    node = own.node
    if isinstance(node, ast.ClassDef) or own.is_cached:
        return False
    if node.args.defaults or any(node.args.kw_defaults):
        return False
    tables = [symtable.symtable(ast.unparse(node), "page", "exec")]
    for table in tables:
        tables += table.get_children()
    outer = {
        symbol.get_name()
        for table in tables
        if isinstance(table, symtable.Function)
        for symbol in table.get_symbols()
        if symbol.is_global()
    }
    return outer <= _BUILTINS


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
    kind: FindingKind, thing: Own | Instance, made: Made, at: Place, through: str
) -> Finding:
    """Word the finding about an object that is lost.

    Parameters
    ----------
    kind, thing, made
        As for, and from, `lost`.
    at
        Where it is handed out.
    through
        The package that hands it on, empty where the page does so itself.
    """
    own = own_of(thing)
    if made.library.by_value:
        own = next(_cached_in(own, set()), own)
    executor = executor_name(made)
    what = _described(thing, own, at)
    short = own.name.rpartition(".")[2]
    if kind == "pickle-task":
        message = f"{what} cannot be pickled, and is never sent to {executor}"
        hint = hints.unpicklable(short, executor)
    else:
        message = f"a worker cannot unpickle {what} sent through {executor}"
        if made.library.by_value:
            message += ", because pickle stores a cached function as a name"
        elif made.start.is_default:
            message += f" under {_DEFAULT}"
        elif made.library.start_method != made.start.method != made.carrier.start_method:
            message += f" under {made.start.method}"
        hint = hints.by_value(own.name.partition(".")[0], executor, through)
    return _finding(kind, message, hint, at, f"__main__.{own.name}")


def generator(made: Made, at: Place) -> Finding:
    """Word the finding about a generator."""
    message = f"a generator cannot be pickled, and is never sent to {executor_name(made)}"
    hint = "Send a list of what the generator yields, or make the generator inside the worker."
    return _finding("pickle-task", message, hint, at, None)


def refused(thing: Instance, loader: Own, made: Made, at: Place) -> Finding:
    """Word the finding about an object that is loaded by a function which raises."""
    message = (
        f"a worker that unpickles {_described(thing, thing.of, at)} sent through "
        f"{executor_name(made)} calls __main__.{loader.name}, which raises an error"
    )
    hint = f"Loading {thing.of.name} fails: fix its __reduce__, or send plain data."
    return _finding("unpickle-task", message, hint, at, f"__main__.{loader.name}")


def without_manager(made: Made, at: Place) -> Finding:
    """Word the finding about an object of a manager whose block has ended."""
    message = (
        f"a worker cannot unpickle an object of a manager sent through {executor_name(made)}: the "
        "with block of the manager has ended"
    )
    return _finding("unpickle-task", message, hints.GONE, at, None)


def without_guard(made: Made, at: Place) -> Finding:
    """Word the finding about a script whose workers would run it once more."""
    message = (
        "a worker cannot import the script, which would hand out work to "
        f"{executor_name(made)} while it is imported"
    )
    return _finding("unpickle-task", message, hints.GUARD, at, "__main__")


def _described(thing: Own | Instance, own: Own, at: Place) -> str:
    where = "page" if at.code.index is not None else "script"
    what = f"__main__.{own.name}, a {own.kind} of the {where},"
    return f"an object of {what}" if isinstance(thing, Instance) and thing.of is own else what


def _finding(kind: FindingKind, message: str, hint: str, at: Place, thing: str | None) -> Finding:
    label = at.code.label
    return Finding(
        kind,
        f"{label}: {message}" if label else message,
        at.line,
        cell=at.code.index,
        expected=at.code.expects_worker_error,
        object=thing,
        hint=hint,
    )
