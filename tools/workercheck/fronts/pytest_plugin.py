"""``pytest --workercheck``: fail the test that handed out work which was lost.

pytest imports this in each of its runs, so that nothing is imported here that is not needed
without the option. The tests are asked about by `workercheck.fronts.pytest_tests`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest

MARKER = "expect_worker_error"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("workercheck").addoption(
        "--workercheck",
        action="store_true",
        help="fail each test whose work was lost in another process",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Begin anew under `workercheck run`, before anything of the suite is imported."""
    if early_config.known_args_namespace.workercheck and not _evidence():
        _begin_anew(early_config)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and watch the tests if that is asked for."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}: with --workercheck, a worker must fail in this test, which is no finding.",
    )
    if config.option.workercheck:
        from workercheck.fronts import pytest_tests

        try:
            tests = pytest_tests.Tests(_evidence())
        except OSError as exc:
            raise pytest.UsageError(
                "--workercheck: something other than `workercheck run` watches this process, so "
                f"the work of the tests cannot be judged ({exc})"
            ) from exc
        config.pluginmanager.register(tests, "workercheck-tests")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that the tests are watched."""
    return "workercheck: lost work fails its test" if config.option.workercheck else None


def _evidence() -> str:
    """Return the folder that the recorder in this process writes to, empty where there is none."""
    recorder = sys.modules.get("workercheck.recorder.events")
    return str(recorder.folder) if recorder is not None else ""


def _begin_anew(config: pytest.Config) -> None:
    """Run the command of this process once more, watched from the start of its interpreter."""
    if list(config.invocation_params.args) != sys.argv[1:]:
        raise pytest.UsageError(
            "--workercheck: a program has called pytest.main() with arguments of its own; start "
            "that program with `workercheck run -- COMMAND`, which watches it from the beginning"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workercheck", "run", "--", *command])
