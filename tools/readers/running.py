"""Run the programs that the site makes of its pages, as a reader runs them."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from readers.environments import START_METHOD, Environment
from readers.record import Entry, ReadersError, Task
from readers.terminal import in_terminal, last_error

FORMS = {"notebook": ".ipynb", "script": ".py"}


def make_programs(source: Path, folder: Path) -> list[dict[str, Any]]:
    """Have the site make its notebooks and scripts, without executing a page.

    Parameters
    ----------
    source
        The folder with ``conf.py``.
    folder
        Where to put them.

    Returns
    -------
    list of dict
        What docs/extensions/programs.py says about each page and section.

    Raises
    ------
    ReadersError
        If the build fails.
    """
    options = ("-D", "nb_execution_mode=off", "-D", "workercheck_allow_unexecuted=*")
    build = [sys.executable, "-m", "sphinx", "-b", "dummy", "-q", *options]
    done = subprocess.run(
        [*build, "-d", str(folder / "doctrees"), str(source), str(folder)],
        capture_output=True,
        text=True,
    )
    manifest = folder / "programs.json"
    if done.returncode or not manifest.exists():
        raise ReadersError(f"the programs cannot be made:\n{done.stdout}{done.stderr}")
    programs: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))
    return programs


def reason(limits: Sequence[Mapping[str, Any]], task: Task) -> str:
    """Return why the page says that this cannot work; empty where it does not."""
    for limit in limits:
        if (
            limit["form"] in ("", task.form)
            and (not limit["start_methods"] or task.start_method in limit["start_methods"])
            and SpecifierSet(limit["python"]).contains(task.python)
        ):
            return str(limit["reason"])
    return ""


def run(
    task: Task,
    program: Mapping[str, Any],
    folder: Path,
    where: Environment,
    *,
    timeout: float,
    stop: threading.Event,
) -> Entry:
    """Run a program as a reader does, in a folder of its own.

    Parameters
    ----------
    task, program
        What to run.
    folder
        Where `make_programs` put it.
    where
        The environment that runs it.
    timeout
        Seconds it may take.
    stop
        Ends the run when it is set.

    Returns
    -------
    Entry
        What came of it. No process of the run is left.
    """
    file = folder / (program["base"] + FORMS[task.form])
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="readers-", ignore_cleanup_errors=True) as scratch:
        downloads = Path(scratch, "downloads")
        downloads.mkdir()
        shutil.copy(file, downloads)
        command = [str(where.python), file.name]
        if task.form == "notebook":
            command = [str(where.folder / "bin" / "jupyter-execute"), file.name]
        status, output = in_terminal(
            command, downloads, _environ(where, task, scratch), timeout=timeout, stop=stop
        )
    seconds = time.monotonic() - started
    said = reason(program["limits"], task)
    if status == 0 and program["undefined"] and not said:
        outcome = "failed"
        error = f"NameError: nothing here defines {', '.join(program['undefined'])}"
    elif status == 0:
        outcome, error = ("works-after-all", said) if said else ("ok", "")
    elif said:
        outcome, error = "explained", said
    elif status is None:
        outcome, error = "timeout", f"not done after {timeout:.0f} s; {last_error(output)}"
    else:
        outcome, error = "failed", last_error(output)
    return Entry(
        task,
        outcome,
        round(seconds, 1),
        error,
        datetime.date.today().isoformat(),
        program["digests"][task.form],
        where.key,
    )


def _environ(where: Environment, task: Task, scratch: str) -> dict[str, str]:
    """Return what a reader's shell has, with nothing of ours but the start method."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "JUPYTER", "WORKERCHECK", "NOX"))
    }
    temporary = Path(scratch, "tmp")
    temporary.mkdir()
    environ |= {
        "PATH": os.pathsep.join([str(where.folder / "bin"), environ.get("PATH", os.defpath)]),
        "VIRTUAL_ENV": str(where.folder),
        "TMPDIR": str(temporary),
        "IPYTHONDIR": scratch,
        "JUPYTER_CONFIG_DIR": scratch,
        "JUPYTER_DATA_DIR": scratch,
        "JUPYTER_RUNTIME_DIR": scratch,
        "COLUMNS": "100",
        START_METHOD: task.start_method,
    }
    return environ
