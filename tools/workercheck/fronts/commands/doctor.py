"""What to paste into a bug report, and whether a function typed into a notebook reaches a worker.

``workercheck doctor``. Each way to a worker is tried for real, as a small page in a kernel of its
own, with the machinery that runs a site's pages: a worker that hangs is ended with its page.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses as dc
import importlib.metadata
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from workercheck import __version__
from workercheck.fronts.commands import output, read_page
from workercheck.judge import rules
from workercheck.judge.finding import WORKER_KINDS
from workercheck.judge.history import History
from workercheck.run.page import Page
from workercheck.run.side_by_side import Run, run_pages

TIMEOUT = 60.0
"""Seconds that a trial may take before it counts as hanging."""

PACKAGES = (
    *("adaptive", "loky", "cloudpickle", "joblib", "dask", "distributed", "ipykernel"),
    *("ipyparallel", "mpi4py", "numpy"),
)

LOKY_SINCE = "1.5.1"
"""The release of adaptive that made loky its default executor."""

_PAGE = """\
---
file_format: mystnb
kernelspec:
  name: python3
mystnb:
  execution_in_temp: true
---

```{{code-cell}}
def typed_here(x):
    return x + 1
```

```{{code-cell}}
{code}
```
"""

_DEFAULT = """\
import adaptive

learner = adaptive.Learner1D(typed_here, bounds=(0, 1))
runner = adaptive.Runner(learner, npoints_goal=5)
executor = type(runner.executor)
print(executor.__module__ + "." + executor.__qualname__)
await runner.task"""

_LOKY = """\
import loky

loky.get_reusable_executor(max_workers=1).submit(typed_here, 1).result()"""

_POOL = """\
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

context = multiprocessing.get_context({method!r})
with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
    executor.submit(typed_here, 1).result()"""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dc.dataclass(frozen=True, slots=True)
class Trial:
    """A way to a worker, to be tried."""

    name: str
    """As a reader would call it."""
    code: str
    """What sends ``typed_here`` to a worker, and fails if it does not arrive."""
    matters: bool = False
    """Whether the doctor's verdict depends on it."""


@dc.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial."""

    trial: Trial
    reached: bool
    seconds: float
    printed: str = ""
    """What the page printed: the executor that adaptive took."""
    worker: str = ""
    """The error in the worker, where one was seen."""
    here: str = ""
    """The error in the notebook."""
    advice: str = ""


class DoctorError(Exception):
    """Nothing can be tried; the message says why, and the way out."""


# -- Facts ----------------------------------------------------------------------


def facts() -> list[tuple[str, str]]:
    """Return what a maintainer wants to know about an environment, in order, by name."""
    build = " ".join(platform.python_build())
    threading = ", without the GIL" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    found = [
        ("workercheck", __version__),
        (
            "Python",
            f"{platform.python_version()} ({platform.python_implementation()}{threading}, {build})",
        ),
        ("platform", platform.platform()),
        ("start method", start_method()),
        ("cores", cores()),
    ]
    return found + [(name, installed(name) or "not installed") for name in PACKAGES]


def installed(name: str) -> str | None:
    """Return the version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def start_method() -> str:
    """Return the default start method, and whether something has changed it."""
    ask = "import multiprocessing; print(multiprocessing.get_start_method())"
    # Without `site` and the environment: what this Python does by itself.
    own = _output([sys.executable, "-I", "-S", "-c", ask])
    here = _output([sys.executable, "-c", ask])
    if not own or own == here:
        return f"{here or multiprocessing.get_start_method()} (the default here)"
    return f"{here} (changed at start-up: Python's own default here is {own})"


def cores() -> str:
    """Return how many cores this process may use."""
    usable = getattr(os, "process_cpu_count", None)
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    number = usable() if usable else len(affinity(0)) if affinity else os.cpu_count()
    text = f"{number} usable, {os.cpu_count()} in the machine"
    if installed("loky"):
        counted = _output([sys.executable, "-c", "import loky; print(loky.cpu_count())"])
        text += f", {counted} by loky's count" if counted else ""
    return text


def _output(command: Sequence[str]) -> str:
    """Return what a command prints, empty where it fails or takes too long."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
        )
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


# -- Trials ---------------------------------------------------------------------


def trials() -> list[Trial]:
    """Return the ways to a worker that this environment has."""
    found = []
    if installed("adaptive"):
        found.append(Trial("adaptive's default executor", _DEFAULT, matters=True))
    if installed("loky"):
        found.append(Trial("loky", _LOKY, matters=not found))
    found.append(Trial("ProcessPoolExecutor", _POOL.format(method=None)))
    return found + [
        Trial(f"ProcessPoolExecutor, {method}", _POOL.format(method=method))
        for method in sorted(multiprocessing.get_all_start_methods())
    ]


def try_all(wanted: Sequence[Trial], timeout: float) -> list[Outcome]:
    """Try each way in a kernel of its own, one after another.

    Parameters
    ----------
    wanted
        What to try.
    timeout
        Seconds each may take.

    Raises
    ------
    DoctorError
        If no kernel can be started.
    """
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="workercheck-doctor-") as folder:
        pages = {
            f"trial-{number}": _page(f"trial-{number}", Path(folder), trial, timeout)
            for number, trial in enumerate(wanted)
        }
        by_name = dict(zip(pages, wanted, strict=True))

        def finished(run: Run) -> None:
            outcome = _judge(by_name[run.page.docname], run, timeout)
            outcomes[run.page.docname] = outcome
            arrives = "yes" if outcome.reached else "NO"
            print(f"workercheck: {outcome.trial.name}: {arrives}", file=sys.stderr, flush=True)

        run_pages(list(pages.values()), jobs=1, has_failed=rules.has_failed, finished=finished)
    return [outcomes[name] for name in pages]


def _page(name: str, folder: Path, trial: Trial, timeout: float) -> Page:
    path = folder / f"{name}.md"
    text = _PAGE.format(code=trial.code)
    path.write_text(text, encoding="utf-8")
    page = read_page.read(name, path, text)
    return page.with_timeout(timeout)


def _judge(trial: Trial, run: Run, timeout: float) -> Outcome:
    """Say what became of a trial, from the run of its page."""
    findings = rules.judge(History(run.page, run.events))
    kinds = {finding.kind: finding for finding in findings}
    if (died := kinds.get("kernel-died")) and "did not start" in died.message:
        raise DoctorError(
            f"no kernel can be started: {died.message}\nInstall one with `pip install ipykernel`."
        )
    errors = [
        f"{output.ename}: {output.evalue}".strip()
        for cell in run.notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "error"
    ]
    worker = next((f for f in findings if f.kind in WORKER_KINDS), None)
    printed = "".join(
        output.text
        for cell in run.notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    )
    if not errors and not findings:
        return Outcome(trial, True, run.seconds, printed)
    hangs = "cell-timeout" in kinds
    here = errors[-1] if errors else findings[0].message
    if hangs:  # the error in the notebook is that it was interrupted
        here = f"hangs: no answer within {timeout:.0f} s"
    return Outcome(
        trial,
        False,
        run.seconds,
        printed,
        worker=_plain(worker.message) if worker else "",
        here=_plain(here),
        advice=_advice(trial, worker.hint if worker else None, hangs=hangs and worker is None),
    )


def _plain(text: str) -> str:
    """Return a message's last paragraph without colours, in one line."""
    lines = _ANSI.sub("", text).strip().splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith(('"""', ":")):
        lines = [lines[0], lines[-1]]  # a worker's traceback within the message
    return " ".join(" ".join(lines).split())[:400]


def _advice(trial: Trial, hint: str | None, *, hangs: bool) -> str:
    adaptive = installed("adaptive")
    if trial.matters and adaptive and _release(adaptive) < _release(LOKY_SINCE):
        return (
            f"adaptive {adaptive} uses a process pool by default, "
            "which sends a function as a name. "
            f"Upgrade: pip install 'adaptive>={LOKY_SINCE}', whose default is loky."
        )
    if hangs:
        return (
            "A worker does not start, or does not answer. Look for a start-up file "
            "(sitecustomize.py, a .pth file) that blocks, and whether new processes are allowed."
        )
    if trial.matters:
        return (
            "The default executor of adaptive should work: report this as a bug, with this text. "
            "Meanwhile, pass executor=concurrent.futures.ThreadPoolExecutor()."
        )
    return hint or "Use the default executor of adaptive, or loky.get_reusable_executor()."


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


# -- Telling --------------------------------------------------------------------


def report(known: Sequence[tuple[str, str]], outcomes: Sequence[Outcome]) -> str:
    """Return it all as Markdown that is pleasant in a terminal, too."""
    results = [
        (
            outcome.trial.name,
            (f"yes, after {outcome.seconds:.1f} s" if outcome.reached else "NO")
            + (f" ({outcome.printed.strip()})" if outcome.printed.strip() else ""),
        )
        for outcome in outcomes
    ]
    for name in ("loky", "adaptive"):
        if not installed(name):
            results.insert(0, (name, "not installed"))
    parts = [
        "## Environment",
        _table(("", ""), known),
        "## Does a function typed into a notebook reach a worker?",
        _table(("sent through", "it arrives"), results),
    ]
    same: dict[str, list[str]] = {}
    for outcome in outcomes:
        if not outcome.reached:
            lines = [
                outcome.worker,
                f"in the notebook: {outcome.here}" if outcome.here else "",
            ]
            errors = "\n".join(filter(None, lines))
            text = f"```text\n{errors}\n```\n\n{outcome.advice}"
            same.setdefault(text, []).append(outcome.trial.name)
    parts += [f"**{'; '.join(names)}**\n\n{text}" for text, names in same.items()]
    return "\n\n".join([*parts, _verdict(outcomes)])


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    first = max(len(name) for name, _ in [head, *rows])
    second = max(len(value) for _, value in [head, *rows])
    lines = [(head[0], head[1]), ("-" * first, "-" * second), *rows]
    return "\n".join(f"| {name:{first}} | {value:{second}} |" for name, value in lines)


def _verdict(outcomes: Sequence[Outcome]) -> str:
    deciding = next((outcome for outcome in outcomes if outcome.trial.matters), None)
    if deciding is None:
        return "adaptive and loky are not installed: there is no default executor to judge."
    if not installed("adaptive"):
        subject = "adaptive is not installed. loky, its default executor,"
    else:
        subject = "adaptive's default executor"
    if deciding.reached:
        pools = " Only Python's own process pool fails above: leave executor= out."
        others = any(not outcome.reached for outcome in outcomes)
        return f"**{subject} works here.**" + (pools if others else "")
    return f"**{subject} does not work here.**"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``workercheck doctor``.

    Returns
    -------
    int
        0 where a function reaches a worker of adaptive's default executor (of loky, where
        adaptive is not installed; nothing is judged where neither is), 1 where it does not,
        2 where it cannot be tried.
    """
    parser = argparse.ArgumentParser(
        prog="workercheck doctor",
        description="Test whether a function typed into a notebook reaches a worker, and print the "
        "result with versions and start method as Markdown, for a bug report.",
        epilog="exit status: 0 adaptive's default executor works, 1 it does not work, "
        "2 no kernel starts. To judge a folder named doctor, use workercheck ./doctor",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help="how long each test may take (default: %(default).0f)",
    )
    options = parser.parse_args(arguments)
    try:
        outcomes = try_all(trials(), options.timeout)
    except DoctorError as error:
        print(f"workercheck: {error}", file=sys.stderr)
        return 2
    if not output.write(report(facts(), outcomes)):
        return 2
    return 1 if any(o.trial.matters and not o.reached for o in outcomes) else 0
