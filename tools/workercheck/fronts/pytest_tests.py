"""Ask, at the end of each test, what became of the work that it handed out."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

from workercheck.fronts.pytest_plugin import MARKER
from workercheck.recorder import behalf, events
from workercheck.run.questions import Asking


class Tests:
    """The tests of this process.

    Parameters
    ----------
    evidence
        The folder to which the recorder in this process writes.

    Raises
    ------
    OSError
        If nobody answers there.
    """

    def __init__(self, evidence: str) -> None:
        self._asking = Asking(evidence)
        self._has_passed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin a test, or one more run of it."""
        self._has_passed = False
        behalf.run_test(_id_of(item))
        if _is_marked(item):
            _tell_marked(item, is_over=False)
        try:
            return (yield)
        except Exception as exc:
            self._explain(exc, item)
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test whose work is known to be lost when its function returns."""
        try:
            result = yield
        except pytest.skip.Exception:
            self._fail(item)
            raise
        except Exception as exc:
            self._explain(exc, item)
            raise
        self._fail(item)
        self._has_passed = True
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test whose fixtures lost work, or whose marker promises what did not happen."""
        try:
            result = yield
            if self._has_passed and _is_marked(item):
                _tell_marked(item, is_over=True)
            self._fail(item, is_over=True)
        except Exception as exc:
            self._explain(exc, item, is_over=True)
            raise
        finally:
            behalf.run_test("")
        return result

    def pytest_unconfigure(self) -> None:
        """End the connection."""
        self._asking.close()

    def _fail(self, item: pytest.Item, *, is_over: bool = False) -> None:
        if lines := self._ask(item, is_over=is_over):
            pytest.fail("\n".join(lines), pytrace=False)

    def _explain(self, exc: Exception, item: pytest.Item, *, is_over: bool = False) -> None:
        """Say beside the error of a test what its workers met."""
        for line in self._ask(item, is_over=is_over):
            exc.add_note(line)

    def _ask(self, item: pytest.Item, *, is_over: bool) -> list[str]:
        if "workercheck.recorder.handles" not in sys.modules:
            return []  # nothing that carries work has been imported
        events.guarded(_tell_dropped, "the end of a test")()
        return self._asking.ask(test=_id_of(item), is_over=is_over) or []


def _tell_dropped() -> None:
    """Tell of work that failed and that nobody can ask for any more."""
    from workercheck.recorder import handles, waiting

    waiting.wait_for_dropped()
    handles.tell_gone()


def _id_of(item: pytest.Item) -> str:
    """Return the id of a test, as the recorder writes it."""
    return events.text(item.nodeid.replace("\0", "(null)"))[:500]


def _is_marked(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None


def _tell_marked(item: pytest.Item, *, is_over: bool) -> None:
    line = item.location[1]
    events.write(
        "marked-test",
        test=_id_of(item),
        file=events.text(str(item.path)),
        line=line + 1 if line is not None else 0,
        is_over=is_over,
    )
