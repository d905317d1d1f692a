"""Pages as the tasks of a Dask cluster: what is sent to its workers, and what comes back.

Which worker runs which page, and what becomes of the pages of a worker that is lost, is the
business of Dask's scheduler.
"""

from __future__ import annotations

import asyncio
import dataclasses as dc
import functools
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import distributed
import psutil

from workercheck.evidence import records as ev
from workercheck.run.environment import Environment, environment
from workercheck.run.page import Page
from workercheck.run.side_by_side import IN_COMPANY, Run, Underway, run_pages

_TICK = 1.0

_PATIENCE = 30.0
"""Seconds in which a scheduler that is there answers."""

_GONE = "the scheduler of the Dask cluster is gone; pages that had passed are kept"


class ClusterError(Exception):
    """The cluster cannot run the pages; the message says why."""


class Cluster:
    """A Dask cluster that exists, as an engine for pages.

    Parameters
    ----------
    address
        That of its scheduler.
    base
        The folder of the pages, which the workers must have under the same path.

    Raises
    ------
    ClusterError
        If there is no scheduler. Later, if the scheduler is gone.
    """

    def __init__(self, address: str, base: Path) -> None:
        self._address = address
        self._base = base
        try:
            self._client = distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as exc:
            raise ClusterError(f"no scheduler of Dask answers at {address}") from exc
        # The workers take a second or two for it, in which the build reads the project.
        self._thread = ThreadPoolExecutor(1, "workercheck")
        self._described = self._thread.submit(self._client.run, _describe, base, on_error="return")

    def check(self, known: Environment) -> None:
        """Refuse workers that would run other pages, or run them otherwise.

        Parameters
        ----------
        known
            The environment in which a build takes the runs for its own.

        Raises
        ------
        ClusterError
            If there are no workers, or one of them has another environment or no folder of the
            pages.
        """
        self._key = known.key
        try:
            answers = self._described.result()
        except OSError as exc:
            raise ClusterError(_GONE) from exc
        if not answers:
            raise ClusterError(f"the scheduler at {self._address} has no workers")
        without = [worker for worker, told in answers.items() if told is None]
        if without:
            raise ClusterError(
                f"workers without the folder of the pages, {self._base}: {', '.join(without)}. "
                "Give the workers a file system on which the folder has this path, or run "
                "workercheck execute --shard on each machine"
            )
        refused = [
            f"{worker} ({why})"
            for worker, told in answers.items()
            if (why := _differs(told, known))
        ]
        if refused:
            raise ClusterError(
                "workers whose environment is not that of the build: " + "; ".join(refused)
            )

    @property
    def slots(self) -> int:
        """How many pages the workers take at once."""
        return sum(self._client.nthreads().values())

    def close(self) -> None:
        """Leave the cluster as it was; what still runs is stopped."""
        # It waits for answers that a closed client does not get.
        self._thread.shutdown()
        self._client.close()

    def run_pages(
        self,
        pages: Sequence[Page],
        *,
        has_failed: Callable[[Page, list[ev.Event]], bool],
        finished: Callable[[Run], None],
        progress: Callable[[Sequence[Underway]], None] = lambda _: None,
    ) -> None:
        """Execute pages as `workercheck.run.side_by_side.run_pages` does, on the workers."""
        together = [page for page in pages if not page.exclusive]
        rounds = [together, *([page] for page in pages if page.exclusive)]
        for some in filter(None, rounds):
            self._round(some, has_failed, finished, progress)

    def _round(
        self,
        pages: Sequence[Page],
        has_failed: Callable[[Page, list[ev.Event]], bool],
        finished: Callable[[Run], None],
        progress: Callable[[Sequence[Underway]], None],
    ) -> None:
        left = {
            self._client.submit(
                _run,
                page,
                self._base,
                self._key,
                has_failed,
                pure=False,
                # The first has the highest: Dask takes equal ones in any order.
                priority=-number,
            ): page
            for number, page in enumerate(pages)
        }
        started: dict[str, Underway] = {}
        while left:
            for future in self._done(list(left)):
                page = left.pop(future)
                started.pop(future.key, None)
                finished(_result(page, future))
            at_work = self._at_work()
            for future, page in left.items():
                if future.key in at_work:
                    started.setdefault(future.key, Underway(page, time.monotonic()))
            progress(list(started.values()))

    def _at_work(self) -> set[str]:
        """Return the keys of the tasks that workers have."""
        ask = self._client.scheduler.processing
        try:
            told = self._client.sync(ask, workers=None, callback_timeout=_PATIENCE)
        except OSError as exc:  # a timeout is one
            raise ClusterError(_GONE) from exc
        return {key for keys in told.values() for key in keys}

    def _done(self, futures: Sequence[Any]) -> Sequence[Any]:
        """Return those that are over, after a while none."""
        try:
            with self._client.as_current():
                return list(distributed.wait(futures, _TICK, "FIRST_COMPLETED").done)
        except distributed.TimeoutError:
            return []
        except distributed.CancelledError as exc:  # only a lost connection cancels futures
            raise ClusterError(_GONE) from exc


def _result(page: Page, future: Any) -> Run:
    """Return the run of a page; one that the cluster lost is a run that failed."""
    try:
        found: Run = future.result()
    except distributed.KilledWorker:
        why = "the workers of the Dask cluster that ran the page died, one after another"
    except distributed.CancelledError as exc:
        raise ClusterError(_GONE) from exc
    except Exception as exc:
        why = f"a worker of the Dask cluster could not run the page: {type(exc).__name__}: {exc}"
    else:
        return found
    lost = ev.KernelDied(pid=0, time=time.monotonic(), cell=None, message=" ".join(why.split()))
    return Run(page, page.notebook, [lost], 0.0, None)


# --- on the workers ---


def _run(
    page: Page,
    base: Path,
    key: str,
    has_failed: Callable[[Page, list[ev.Event]], bool],
) -> Run:
    """Run one page in a worker, until it is over or nobody wants it any more."""
    worker = distributed.get_worker()
    task = worker.get_current_task()
    if _environment(base).key != key:  # it joined later
        raise ClusterError("its environment is not that of the build")

    def stop_if_unwanted(_: Sequence[Underway]) -> None:
        known = worker.state.tasks.get(task)
        is_unwanted = known is None or known.state in ("cancelled", "released", "forgotten")
        # Without its scheduler, a worker ends.
        if is_unwanted or worker.status.name in ("closing", "closed", "failed"):
            for running in asyncio.all_tasks():
                running.cancel()

    runs: list[Run] = []
    run_pages(
        [page],
        jobs=1,
        has_failed=has_failed,
        finished=runs.append,
        progress=stop_if_unwanted,
        environ={**({} if page.exclusive else IN_COMPANY), **_without_nanny(worker)},
    )
    return dc.replace(runs[0], machine=platform.node())


def _without_nanny(worker: Any) -> dict[str, str]:
    """Return this process's variables without what Dask adds, such as OMP_NUM_THREADS=1."""
    if worker.nanny is None:
        return dict(os.environ)
    before = psutil.Process().parent()
    try:
        had = before.environ() if before is not None else {}
    except psutil.Error:
        had = {}
    added = dask.config.get("distributed.nanny.pre-spawn-environ", {}).keys() - had.keys()
    return {name: value for name, value in os.environ.items() if name not in added}


_environment = functools.cache(environment)


def _describe(base: Path) -> Environment | None:
    """Return the environment of a worker, None where the folder of the pages is not there."""
    if not base.is_dir():
        return None
    # Anew for each build: packages may be renewed during the life of a worker.
    _environment.cache_clear()
    return _environment(base)


def _differs(told: Any, known: Environment) -> str:
    """Say in what a worker's environment is another one, empty where it is the same."""
    if isinstance(told, BaseException):
        return f"it could not describe its environment: {type(told).__name__}: {told}"
    own: Environment = told
    differences = []
    if own.python != known.python:
        differences.append(f"Python {own.python}, not {known.python}")
    if own.start_method != known.start_method:
        differences.append(f"the start method {own.start_method}, not {known.start_method}")
    for name in sorted({*own.packages, *known.packages}):
        there, here = (some.packages.get(name, "absent") for some in (own, known))
        if there != here:
            differences.append(f"{name} {there}, not {here}")
    if not differences and own.key != known.key:
        differences.append(
            "the content of what is installed, PYTHONPATH, the processor, or the C library"
        )
    return ", ".join(differences)
