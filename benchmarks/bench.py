"""Time the ways to build a site against each other and write what the docs show.

Every row of a round is measured in one run, one after another, so that a busy machine slows all
of them; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import datetime as dt
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import figures
import sites
from builders import BUILDERS, EXECUTING, OFF, SERIAL, THIS, Builder, BuildError, shards
from measure import Cost

RESULTS = Path(__file__).parents[1] / "docs" / "source" / "explanation" / "benchmarks"
SITUATIONS = ("cold", "nothing changed", "one page changed", "only the caches kept")
GROWTH = (10, 50, 100)
MACHINES = (1, 2, 4)
SLEEPING = (200, 8.0)
"""How many pages the machines share, and how many seconds each one sleeps."""
_ATTEMPTS = 3
"""How often a build of growing sites is tried."""


def main() -> None:
    """Run what the arguments ask for, and draw all results that there are."""
    parser = argparse.ArgumentParser(description=__doc__, prog="nox -s bench --")
    parser.add_argument("--rounds", type=int, default=1, help="of the tutorials (default: 1)")
    parser.add_argument(
        "--only", choices=["tutorials", "growth", "machines"], help="leave out the others"
    )
    parser.add_argument(
        "--pages", type=Path, metavar="FOLDER", help="time the pages in FOLDER, and write nothing"
    )
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if options.pages:
            _pages(options.pages, folder, options.rounds)
            return
        if options.only in (None, "tutorials"):
            _write("tutorials", _pages(sites.TUTORIALS, folder, options.rounds))
        if options.only in (None, "growth"):
            _write("growth", _growth(folder))
        if options.only in (None, "machines"):
            _write("machines", _machines(folder))
    figures.draw(RESULTS)


def _pages(source: Path, folder: Path, rounds: int) -> dict[str, object]:
    pages = sites.copied(folder / "pages", source)
    measured = []
    for number in range(rounds):
        # Each round begins with another one: the machine is not the same at its end.
        for name in [*BUILDERS[number:], *BUILDERS[:number]]:
            for situation, cost in _situations(name, pages, folder, number):
                measured.append({"round": number, "builder": name, "situation": situation, **cost})
    ratios = [
        cost["wall"] / stock["wall"]
        for cost in measured
        for stock in measured
        if (cost["builder"], stock["builder"]) == (THIS, SERIAL)
        and cost["situation"] == stock["situation"] == "cold"
        and cost["round"] == stock["round"]
    ]
    print(f"cold, {THIS} / {SERIAL}: {statistics.median(ratios):.2f}", flush=True)
    return {"pages": pages, "measured": measured}


def _situations(
    name: str, pages: int, folder: Path, number: int
) -> Iterator[tuple[str, dict[str, float]]]:
    place = folder / f"round{number}-{BUILDERS.index(name)}"
    place.mkdir()
    builder = Builder(name, folder / "pages", place)
    executes = name != OFF

    def build(situation: str, count: int) -> tuple[str, dict[str, float]]:
        cost = builder.build(count if executes else 0)
        print(f"{name}, {situation}: {cost.wall:.1f} s, {cost.cpu:.1f} CPU s", flush=True)
        return situation, dc.asdict(cost)

    yield build(SITUATIONS[0], pages)
    yield build(SITUATIONS[1], 0)
    sites.change_one_page(builder.source, number)
    yield build(SITUATIONS[2], 1)
    builder.forget_output()
    yield build(SITUATIONS[3], 0)
    shutil.rmtree(place)


def _growth(folder: Path) -> dict[str, object]:
    measured = []
    for pages in GROWTH:
        site = folder / f"small{pages}"
        sites.small_pages(site, pages)
        for name in EXECUTING:
            cost, failed = _built(name, site, folder / "growth", pages)
            print(f"{name}, {pages} small pages: {cost.wall:.1f} s", flush=True)
            known = {"builder": name, "pages": pages, "failed": failed}
            measured.append({**known, **dc.asdict(cost)})
    return {"measured": measured}


def _built(name: str, site: Path, place: Path, pages: int, failed: int = 0) -> tuple[Cost, int]:
    """Build a site, again where that failed; return the cost, and how many builds had failed.

    Of many pages, `PARALLEL` sometimes fails, and `JCACHE` sometimes executes one twice.
    """
    place.mkdir()
    try:
        return Builder(name, site, place).build(pages), failed
    except BuildError as error:
        if failed == _ATTEMPTS - 1:
            raise
        print(error, flush=True)
    finally:
        shutil.rmtree(place)
    return _built(name, site, place, pages, failed + 1)


def _machines(folder: Path) -> dict[str, object]:
    pages, seconds = SLEEPING
    site = folder / "sleeping"
    sites.sleeping_pages(site, pages, seconds)
    measured = []
    for machines in MACHINES:
        place = folder / f"machines{machines}"
        place.mkdir()
        cost = shards(site, place, machines, pages)
        load = os.getloadavg()[0]
        print(f"{machines} machines: {cost.wall:.1f} s, load {load:.1f}", flush=True)
        measured.append({"machines": machines, "load": load, **dc.asdict(cost)})
        shutil.rmtree(place)
    return {"pages": pages, "sleep": seconds, "measured": measured}


def _write(name: str, result: dict[str, object]) -> None:
    packages = ("sphinx", "myst-nb", "jupyter-cache", "ipykernel", "adaptive")
    result = {
        "date": dt.date.today().isoformat(),
        "machine": f"{os.process_cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in packages},
        **result,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
