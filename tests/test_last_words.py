"""What runs at the end of a page passes through nothing that the page can change."""

from __future__ import annotations

import sys

import pytest
from runs import execute, of, page, places
from workercheck.evidence import records as ev
from workercheck.run.side_by_side import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

DROPS = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor

def failing(seconds=0):
    time.sleep(seconds)
    raise ValueError("nobody asks")

context = multiprocessing.get_context("fork")
future = ProcessPoolExecutor(1, mp_context=context).submit(failing)
"""

BLOCKS = """
import asyncio, time

async def soon():
    await asyncio.sleep(0.5)
    {wait}

task = asyncio.create_task(soon())
"""

WRITES = """
import json, os

with open(os.environ["WORKERCHECK_EVIDENCE"] + "/events.jsonl", "a") as file:
    fields = {"event": "last-words", "pid": os.getpid(), "time": time.time(), "token": ""}
    file.write(json.dumps(fields) + "\\n")
late = ProcessPoolExecutor(1, mp_context=context).submit(failing, 1)
"""

DESCRIPTORS = """
import os

taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    print(error.errno)
"""

TASK = """
import asyncio

async def failing():
    raise ValueError("nobody awaits")

task = asyncio.create_task(failing())
"""

DROPPED = [("unseen-failure", 10)]
NOT_WATCHED = [("not-watched", 0)]
PAGES = {
    "autoawait off": (["%autoawait off", DROPS], [("unseen-failure", 20)]),
    "autoawait trio": (["%autoawait trio", DROPS], [("unseen-failure", 20)]),
    "task that sleeps": ([DROPS + BLOCKS.format(wait="time.sleep(300)")], DROPPED),
    "task that never yields": ([DROPS + BLOCKS.format(wait="\n    while True: pass")], DROPPED),
    "transformer": (
        [DROPS, "get_ipython().input_transformers_cleanup.append(lambda lines: ['1 / 0\\n'])"],
        DROPPED,
    ),
    "no import": ([DROPS, "__import__ = None"], DROPPED),
    "no descriptors": ([DROPS, DESCRIPTORS], DROPPED),
    "own words": ([DROPS, WRITES], [*DROPPED, ("unseen-failure", 20)]),
    "task": ([TASK], DROPPED),
    "question gone": (
        ["import os\nos.unlink(os.environ['WORKERCHECK_EVIDENCE'] + '/question')"],
        NOT_WATCHED,
    ),
    "pipe": (
        [
            "import os\npath = os.environ['WORKERCHECK_EVIDENCE'] + '/events.jsonl'\n"
            "os.unlink(path)\nos.mkfifo(path)",
            DROPS,
        ],
        NOT_WATCHED,
    ),
    "nothing": (["print(6 * 7)"], []),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """All pages in one build."""
    folder = tmp_path_factory.mktemp("pages")
    pages = [page(folder, *cells, name=name) for name, (cells, _) in PAGES.items()]
    return {run.page.docname: run for run in execute(*pages, jobs=4)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PAGES)
def test_dropped_failure_is_found_whatever_the_page_does(runs: dict[str, Run], name: str) -> None:
    assert PAGES[name][1] == places(runs[name])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PAGES)
def test_no_time_is_lost_at_the_end(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    for event in of(run, ev.ShutdownStarted):  # not in a pipe
        assert event.time - of(run, ev.CellFinished)[-1].time < 10
    assert run.seconds < 40


WORKS_ON = """
import time
import {package}

def failing(seconds):
    time.sleep(seconds)
    raise ValueError("nobody asks")

pool = {package}.{pool}
result = pool.apply_async(failing, (2,))
time.sleep(0.5)
"""


POOLS = {
    "billiard": 'get_context("fork").Pool(1)',
    "mpire": 'WorkerPool(1, start_method="fork")',
    "multiprocessing": 'get_context("fork").Pool(1)',
}


@pytest.fixture(scope="module")
def pools(tmp_path_factory) -> dict[str, Run]:
    """Pages with a Pool that works when they end, and with one that was terminated."""
    folder = tmp_path_factory.mktemp("pools")
    cells = {name: WORKS_ON.format(package=name, pool=pool) for name, pool in POOLS.items()}
    works_on = [page(folder, cell, name=f"{name} works on") for name, cell in cells.items()]
    ended = [page(folder, f"{cell}\npool.terminate()", name=name) for name, cell in cells.items()]
    return {run.page.docname: run for run in execute(*works_on, *ended, jobs=2)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", POOLS)
def test_a_terminated_pool_is_not_waited_for(pools: dict[str, Run], name: str) -> None:
    run = pools[name]
    (shutdown,) = of(run, ev.ShutdownStarted)
    # A result without an outcome that belonged to no Pool would be waited for: 5 s.
    assert shutdown.time - of(run, ev.CellFinished)[-1].time < 4
    assert [] == places(run)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", POOLS)
def test_a_pool_that_works_on_is_waited_for(pools: dict[str, Run], name: str) -> None:
    assert DROPPED == places(pools[f"{name} works on"])
