"""The ways to build a site that are compared, each with folders and caches of its own."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from measure import Cost, measure
from sites import CONF

THIS = "this build"
SERIAL = "stock myst-nb"
PARALLEL = "stock myst-nb, -j 2"
JCACHE = "jupyter-cache, parallel"
OFF = "this build, execution off"
EXECUTING = (THIS, SERIAL, PARALLEL, JCACHE)
BUILDERS = (*EXECUTING, OFF)

_EXECUTED = re.compile(r"Executing notebook|Executing: |workercheck: \[\d+/\d+\]")


class BuildError(Exception):
    """A build failed or did not execute what it should; the message names its log."""


class Builder:
    """One way to build one site.

    Parameters
    ----------
    name
        One of `BUILDERS`.
    site
        Folder of the pages, of which this makes a copy.
    folder
        Where the copy, the caches and the output go.
    """

    def __init__(self, name: str, site: Path, folder: Path) -> None:
        self.name = name
        self.source = folder / "source"
        self._out = folder / "html"
        self._cache = folder / "cache"
        self._logs = folder
        self._count = 0
        shutil.copytree(site, self.source)
        for path in site.parent.glob("*.py"):
            shutil.copy(path, folder)
        ours = name in (THIS, OFF)
        conf = CONF.format(
            extensions=["myst_nb", "workercheck"] if ours else ["myst_nb"],
            mode="off" if name == OFF else "cache",
            cache=str(self._cache),
        )
        if name == OFF:
            conf += 'workercheck_allow_unexecuted = ["*"]\n'
        (self.source / "conf.py").write_text(conf, "utf-8")

    def forget_output(self) -> None:
        """Remove what was built, and keep what was executed."""
        shutil.rmtree(self._out, ignore_errors=True)

    def build(self, executes: int) -> Cost:
        """Build once.

        Parameters
        ----------
        executes
            How many pages this build must execute, so that no figure is of another case.

        Raises
        ------
        BuildError
            If the build fails or executes another number of pages.
        """
        self._count += 1
        steps = []
        if self.name == JCACHE:
            script = Path(__file__).with_name("jcache_parallel.py")
            steps.append([sys.executable, str(script), str(self.source), str(self._cache)])
        options = ["-j", "2"] if self.name == PARALLEL else []
        steps.append([sys.executable, "-m", "sphinx", *options, str(self.source), str(self._out)])
        costs, text = [], ""
        for number, step in enumerate(steps):
            log = self._logs / f"{self._count}-{number}.log"
            costs.append(measure(step, log))
            text += log.read_text("utf-8", "replace")
            if costs[-1].status != 0:
                raise BuildError(f"{self.name}: exit {costs[-1].status}, see {log}")
        check(self.name, text, executes, log)
        return Cost(
            0,
            sum(cost.wall for cost in costs),
            sum(cost.cpu for cost in costs),
            max(cost.memory for cost in costs),
        )


def shards(site: Path, folder: Path, machines: int, executes: int) -> Cost:
    """Execute a site's pages on simulated machines, all at once.

    Parameters
    ----------
    site
        Folder of the pages and of ``conf.py``.
    folder
        Where the machines have their copies and stores.
    machines
        How many.
    executes
        How many pages they must execute together.

    Raises
    ------
    BuildError
        If a page fails or they execute another number of pages.
    """
    log = folder / "log"
    script = Path(__file__).with_name("shards.py")
    cost = measure([sys.executable, str(script), str(site), str(folder), str(machines)], log)
    if cost.status != 0:
        raise BuildError(f"{machines} machines: exit {cost.status}, see {log}")
    check(f"{machines} machines", log.read_text("utf-8", "replace"), executes, log)
    return cost


def check(name: str, text: str, executes: int, log: Path) -> None:
    """Refuse a figure of another case: one in which another number of pages was executed."""
    if (found := len(_EXECUTED.findall(text))) != executes:
        raise BuildError(f"{name}: {found} pages executed, not {executes}, see {log}")
