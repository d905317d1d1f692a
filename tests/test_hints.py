"""What a finding advises for an object that pickle itself refuses."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from workercheck.judge import hints


async def nothing() -> None:
    pass


def local_class() -> Any:
    class Local:
        pass

    return Local


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "keys": (lambda: {1: 2}.keys(), "Send a list of it", "Return a list of it"),
    "values": (lambda: {1: 2}.values(), "Send a list of it", "Return a list of it"),
    "items": (lambda: {1: 2}.items(), "Send a list of it", "Return a list of it"),
    "memoryview": (lambda: memoryview(b"x"), "Send the bytes", "Return the bytes"),
    "generator": (lambda: (n for n in ()), "Send a list of what", "Return a list of what"),
    "module": (lambda: math, "Import the module inside", "Return what is needed of"),
    "coroutine": (nothing, "Send the coroutine function", "Let the function in the worker run"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_advice_for_what_pickle_refuses_says_what_to_send_instead(kind: str) -> None:
    make, send, give_back = REFUSED[kind]
    thing = make()
    with pytest.raises(TypeError) as refused:
        pickle.dumps(thing)
    getattr(thing, "close", bool)()
    for is_result, advice in ((False, send), (True, give_back)):
        for is_to_blame in (False, True):
            hint = hints.failed_dump(
                "__main__.work",
                "concurrent.futures.ProcessPoolExecutor",
                str(refused.value),
                is_result=is_result,
                is_to_blame=is_to_blame,
            )
            assert hint.startswith(advice)


def test_advice_for_anything_else_names_it() -> None:
    error = "cannot pickle '_thread.lock' object"
    hint = hints.failed_dump("__main__.work", None, error, is_result=False, is_to_blame=False)
    assert "the _thread.lock that is sent with work" in hint


@pytest.mark.parametrize("make", [lambda: map(lambda n: n, ()), local_class], ids=["map", "class"])
def test_advice_for_a_function_or_a_class_without_a_name_says_where_it_belongs(
    make: Callable[[], Any],
) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)) as refused:
        pickle.dumps(make())
    for is_result in (False, True):
        hint = hints.failed_dump(
            "list",
            "multiprocessing.Pool",
            str(refused.value),
            is_result=is_result,
            is_to_blame=False,
        )
        assert "unless it is at the top level of a module" in hint
        assert "such as a lock" not in hint


def test_each_kind_of_handle_has_its_way_to_be_looked_at() -> None:
    kinds = ("future", "collection", "result", "task", "remote task", "process", "thread")
    assert all(hints.look(kind, None) for kind in kinds)
