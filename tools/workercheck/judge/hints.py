"""What to do about each finding, by its cause."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.judge import wording

_LOOK = {
    "future": "Ask the future for its result() or its exception().",
    "collection": "Compute the collection or a part of it, which raises the error of its tasks.",
    "result": "Call get() on the result, or go through all items of the iterator.",
    "task": "Await the task, or call its exception() once it is done.",
    "remote task": "Get the value of the reference to the task, which raises its error.",
    "process": "Read the exitcode of the process after join(), or fix its function.",
    "thread": (
        "Let the function catch its error and hand it on, such as through a queue: to join the "
        "thread raises nothing."
    ),
}

GUARD = (
    "A worker imports the script that started it: put code that must not run in a worker behind "
    'if __name__ == "__main__", and run the script from a file.'
)

GONE = (
    "The message refers to something that no longer exists: a manager that was shut down, shared "
    "memory that was unlinked, a lock or a queue that the page no longer holds, the process that "
    "sent the message, or a file that was removed. Keep the manager, the memory, the lock, the "
    "process or the file until the work is done."
)

AUTHKEY = (
    "A proxy is sent without the authkey of its manager: leave out authkey=, or set "
    "multiprocessing.current_process().authkey in each worker, in an initializer."
)


INHERITED = (
    "A worker gets a lock, a queue or a shared value only while it starts: pass it to the "
    "executor in initargs=, with an initializer=, or to a Process as an argument. The proxy of a "
    "manager, such as multiprocessing.Manager().Lock(), can be sent at any time."
)

_SOUGHT = re.compile(r"(?:not found as|attribute lookup) (.*)")
"""What an error says was looked up by its name."""

_UNSENT = re.compile(r"cannot pickle '?([\w.]+)'? (?:object|instance)")
"""What an error says cannot be pickled."""
_BY_NAME = re.compile(r"Can't (?:pickle|get) (?:local object|<(?:function|class))")
"""What an error says of a function or a class, which pickle stores by its name."""

_INSTEAD = {
    "coroutine": (
        "Send the coroutine function, and let the worker run it with asyncio.run: a coroutine "
        "cannot be pickled.",
        "Let the function in the worker run its coroutine, with asyncio.run.",
    ),
    **dict.fromkeys(
        ("dict_keys", "dict_values", "dict_items"),
        (
            "Send a list of it: a view of a dictionary cannot be pickled.",
            "Return a list of it: a view of a dictionary cannot be pickled.",
        ),
    ),
    "memoryview": (
        "Send the bytes: a memoryview cannot be pickled.",
        "Return the bytes: a memoryview cannot be pickled.",
    ),
    "generator": (
        "Send a list of what the generator yields, or make the generator inside the worker.",
        "Return a list of what the generator yields.",
    ),
    "module": (
        "Import the module inside the worker: a module cannot be pickled.",
        "Return what is needed of the module: a module cannot be pickled.",
    ),
}
"""What to send instead, and what to return."""


def look(what: str, thing: str | None) -> str | None:
    """Say how to look at a failure.

    Parameters
    ----------
    what
        ``future``, ``collection``, ``result``, ``task``, ``remote task``, ``process`` or
        ``thread``.
    thing
        The function that failed, where it is known.
    """
    if what == "task" and (thing or "").startswith(libraries.LEARNERS):
        return "Await the task of the runner: await runner.task."
    return _LOOK.get(what)


def failed_load(
    e: ev.LoadFailed,
    thing: str | None,
    *,
    is_result: bool,
    executor: str | None,
    through: str,
    method: str | None,
) -> str:
    """Say what to do about a message that could not be loaded.

    Parameters
    ----------
    e, thing
        The event, and the object that could not be loaded.
    is_result
        Whether a worker sent it back.
    executor
        The public name of the executor, where it is known.
    through
        The package that handed the work on, empty where the page did that itself.
    method
        The start method of the worker.
    """
    name = (thing or "it").rsplit(".", 1)[-1]
    if e.importing == "__main__":
        return GUARD
    if e.importing and e.interpreter and e.exception == "ImportError":
        return (
            f"Send plain data, or hand the work to processes: an interpreter beside the main one "
            f"imports {e.importing} anew, and many compiled modules load in the main one only."
        )
    if e.importing:
        return (
            f"The worker imports {e.importing} in its own order and environment, and that import "
            f"raises an error: let {e.importing} import all that it needs, without circular "
            "imports, set environment variables before the workers start, and guard a script with "
            'if __name__ == "__main__".'
        )
    if e.exception in ("FileNotFoundError", "ConnectionRefusedError", "ConnectionResetError"):
        return GONE
    if e.exception.endswith(".AuthenticationError"):
        return AUTHKEY
    if is_result:
        return (
            f"Return plain data, or fix how {name} is pickled: an exception with an __init__ of "
            "its own needs a __reduce__, and a class must be importable in both processes."
        )
    if e.name == "__main__":
        return "Move the function into a module: this worker does not have the page's __main__."
    if e.exception == "ModuleNotFoundError":
        return (
            f"Install {e.name} where the workers run, or put it on their import path: a worker "
            "gets sys.path as it is when the worker starts."
        )
    if e.found is not None:
        return (
            f"Give {name} another name, or move it into a module: pickle sends only the name "
            f"{thing}, which is {e.found} in a worker under {method or 'this start method'}."
        )
    if thing is not None and thing.startswith("__main__.") and e.exception == "AttributeError":
        return by_value(thing.split(".")[1], executor, through, method)
    if e.exception == "AttributeError" and wording.is_missing_from_module(e):
        return (
            "Import the same version of the module in the page and in the worker: the worker "
            "imports the module again, from its file."
        )
    if e.exception == "RecursionError" and (e.raised_in or "").endswith(".__getattr__"):
        return (
            f"Let the __getattr__ of {name} raise AttributeError for what it does not know: pickle "
            "asks an object for __setstate__ before the object has its attributes."
        )
    return f"Loading {name} fails: fix its __setstate__ or __reduce__, or send plain data."


def by_value(name: str, executor: str | None, through: str, method: str | None = None) -> str:
    """Say how a function or a class of the page gets to a worker.

    Parameters
    ----------
    name
        Of the function or the class.
    executor, through, method
        As for `failed_load`.
    """
    library = libraries.library_of(executor)
    move = f"Move {name} into a module that both processes can import"
    if method == "fork":
        move = (
            f"Define {name} before the worker starts, which under fork is a copy of the page as it "
            f"was then, or move {name} into a module that both processes can import"
        )
    if library is not None and library.by_value:
        return f"{move}: it was pickled by name, not by value."
    if through == "adaptive":
        return (
            "Leave out executor= (adaptive's default since 1.5.1 is loky, which pickles functions "
            f"by value), use loky.get_reusable_executor() elsewhere, or move {name} into a module."
        )
    if through:
        return f"{move}, or have {through} use an executor that pickles by value, such as loky."
    if libraries.is_channel(executor):
        return f"{move}."
    return f"{move}, or hand the work to loky, which pickles {name} by value."


def failed_dump(
    thing: str | None,
    executor: str | None,
    error: str,
    *,
    is_result: bool,
    is_to_blame: bool,
) -> str:
    """Say what to do about an object that could not be pickled.

    Parameters
    ----------
    thing
        The object, or the function it was sent with.
    executor
        What was to carry it.
    error
        What pickle said.
    is_result
        Whether it is what a worker was to send back.
    is_to_blame
        Whether the object itself cannot be pickled, and not something that was sent with it.
    """
    name = (thing or "it").rsplit(".", 1)[-1]
    library = libraries.library_of(executor)
    is_at_top_level = is_to_blame and "<" not in (thing or "<")
    if "recursion" in error or error.startswith("Stack overflow"):
        return (
            "Send data that is nested less deeply, such as a list instead of a chain of objects: "
            "pickle follows each reference, and gives up where there are too many in a row."
        )
    sought = _SOUGHT.search(error)
    # What has no module, such as a function that was made of a text, cannot be kept in one.
    if is_at_top_level and "." in (thing or "") and sought is not None and name in sought[1]:
        return (
            f"Keep {name} under its own name in its module: pickle sends the name {thing}, and "
            "there is nothing under it."
        )
    if is_at_top_level and "not the same object" in error:
        return (
            f"Give {name} a name of its own, or send something else: pickle sends the name "
            f"{thing}, which means another object, as after a decorator or a reload of its module."
        )
    if "through inheritance" in error:
        return INHERITED
    if error.startswith("pool objects cannot be passed"):
        return (
            f"Leave the pool out of what is sent: make {name} a function that has no pool, or "
            "delete the pool in the __getstate__ of the object that has it."
        )
    unsent = _UNSENT.search(error)
    kind = unsent[1] if unsent is not None else None
    if kind in _INSTEAD:
        return _INSTEAD[kind][is_result]
    part, such = (f"the {kind}", "") if kind else ("something", ", such as a lock or a file")
    if _BY_NAME.search(error):
        part, such = "a function or a class", " unless it is at the top level of a module"
    if is_result and is_to_blame:
        return f"Return plain data that pickle can store, instead of {name}."
    if is_result:
        return f"Return plain data: {part} in the result, or in the error, cannot be pickled{such}."
    if library is not None and library.by_value and is_to_blame and "<" in (thing or ""):
        return (
            f"{_to_the_top_level(name)}: pickle stores a function by its name, and this name "
            f"cannot be looked up. By default, {library.name} pickles functions by value."
        )
    if is_to_blame and error.startswith("cannot pickle"):
        return f"Send plain data, and make the {name} inside the worker: it cannot be pickled."
    if library is not None and library.by_value:
        return (
            f"Send plain data: {part} in {name}, or in something that {name} refers to, cannot be "
            f"pickled{such}. Create that object inside the worker."
        )
    if not is_to_blame:
        return (
            f"Send plain data: {part} that is sent with {name} cannot be pickled{such}. Create "
            "that object inside the worker."
        )
    return unpicklable(name, executor)


def unpicklable(name: str, executor: str | None) -> str:
    """Say what to do about a function or a class that pickle cannot store."""
    if libraries.is_channel(executor):
        return f"{_to_the_top_level(name)}, or send plain data instead."
    return (
        f"{_to_the_top_level(name)}, send plain data instead, or hand the work to loky, which "
        "pickles functions by value."
    )


def _to_the_top_level(name: str) -> str:
    move = f"Move {name} to" if name != "<lambda>" else "Make the lambda a function at"
    return f"{move} the top level of a module"


def died(*, is_page: bool) -> str:
    """Say what to do about a worker that died while it had work.

    Parameters
    ----------
    is_page
        Whether a page handed the work out, whose cells have tags.
    """
    hint = (
        "To find out what ends the worker, run the function in the page itself, without an "
        "executor. A crash in compiled code, sys.exit, os._exit or a lack of memory can end a "
        "process."
    )
    on_purpose = " If the page shows this failure on purpose, tag the cell expect-worker-error."
    return hint + on_purpose if is_page else hint.replace("the page itself", "the program itself")


def initializer(function: str | None) -> str:
    """Say what to do about an initializer that raises."""
    name = (function or "the initializer").rsplit(".", 1)[-1]
    return (
        f"Fix {name}: it runs in each worker before its first task, and a worker in which it "
        "raises an error does no work."
    )


def leftover(library: libraries.Library | None) -> str:
    """Say how to end processes that were left behind."""
    if library is not None and library.stop:
        return f"End the processes of {library.name} where they were started: {library.stop}."
    return (
        "End the process where it was started: shut its executor down, use a with block, or "
        "terminate the program and wait for it."
    )


def unwatched_kernel(started: Sequence[ev.KernelAnswered]) -> str:
    """Say what to install where for a kernel without the recorder."""
    environment = started[-1].environment if started else ""
    where = environment or "the environment of the page's kernel"
    return (
        f"Install workercheck in {where} (`pip install workercheck`: the base package is enough), "
        "and let the kernel inherit the variable WORKERCHECK_EVIDENCE."
    )


def unwatched(e: ev.Unwatched) -> str:
    """Say what to do about a Python process without the recorder."""
    if e.environment is not None:
        return (
            f"Install workercheck in {e.environment} too, so that failures of its workers are seen."
        )
    return "Pass os.environ to the process, and start Python without -S."
