"""Time what the recorder costs: each command with it and without it, in pairs.

The two runs of a pair follow each other, and every second pair begins with the other one, so that
a busy machine slows both alike. A figure is the median over the pairs.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import os
import statistics
import sys
import tempfile
from pathlib import Path

from measure import Cost, measure
from workercheck.evidence.reader import Evidence

EXECUTOR = """
import math, multiprocessing
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for future in [executor.submit(math.sqrt, 4) for _ in range(20_000)]:
            future.result()
"""

POOL = """
import math, multiprocessing

if __name__ == "__main__":
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        pool.map(math.sqrt, range(100_000), chunksize=1)
"""

FORKS = """
import multiprocessing

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    for _ in range(300):
        process = context.Process(target=int)
        process.start()
        process.join()
"""

CASES = {
    "start of an interpreter": ("pass", 40),
    "start, and import pickle": ("import pickle", 40),
    "start, and import concurrent.futures.process": ("import concurrent.futures.process", 20),
    "20,000 tasks of a process pool": (EXECUTOR, 5),
    "100,000 tasks of a Pool": (POOL, 3),
    "300 forks": (FORKS, 5),
}


@dc.dataclass(frozen=True, slots=True)
class Pair:
    """The cost of one command, without the recorder and with it."""

    without: Cost
    watched: Cost


def main() -> None:
    """Measure what the arguments ask for, and print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--pairs", type=int, help="how many of each case")
    parser.add_argument(
        "--scripts",
        type=Path,
        metavar="FOLDER",
        help="time the scripts there instead, such as those of the pages in docs/_build/html",
    )
    options = parser.parse_args()
    if options.scripts:
        scripts = sorted(options.scripts.rglob("*.py"))
        total = [
            sum_of([pair(script.read_text(), number) for script in scripts])
            for number in range(options.pairs or 3)
        ]
        report(f"{len(scripts)} scripts", total)
        return
    for name in options.only or CASES:
        code, pairs = CASES[name]
        report(name, [pair(code, number) for number in range(options.pairs or pairs)])


def pair(code: str, number: int) -> Pair:
    """Run code once without the recorder and once with it.

    Parameters
    ----------
    code
        A program.
    number
        Of the pair: every second one begins with the recorder.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "program.py"
        script.write_text(code)
        evidence = Evidence(folder).create(folder)

        def run(env: dict[str, str]) -> Cost:
            cost = measure([sys.executable, script], folder / "log", {**os.environ, **env})
            if cost.status:
                raise RuntimeError((folder / "log").read_text())
            return cost

        if number % 2:
            watched = run(evidence.environ)
            return Pair(run({}), watched)
        return Pair(run({}), run(evidence.environ))


def sum_of(pairs: list[Pair]) -> Pair:
    """Add up the time of several commands."""

    def add(costs: list[Cost]) -> Cost:
        wall, cpu = sum(cost.wall for cost in costs), sum(cost.cpu for cost in costs)
        return Cost(0, wall, cpu, max(cost.memory for cost in costs))

    return Pair(add([pair.without for pair in pairs]), add([pair.watched for pair in pairs]))


def report(name: str, pairs: list[Pair]) -> None:
    """Print the medians of a case: wall time, and CPU time with the ratio of each pair."""
    wall = [pair.watched.wall / pair.without.wall for pair in pairs]
    cpu = [pair.watched.cpu / pair.without.cpu for pair in pairs]
    more = [pair.watched.cpu - pair.without.cpu for pair in pairs]
    without = statistics.median(pair.without.wall for pair in pairs)
    print(
        f"{name}: {without * 1000:.1f} ms, with the recorder {statistics.median(wall):.3f} of it; "
        f"CPU {statistics.median(cpu):.3f}, {statistics.median(more) * 1000:+.2f} ms "
        f"(median of {len(pairs)} pairs)",
        flush=True,
    )


if __name__ == "__main__":
    main()
