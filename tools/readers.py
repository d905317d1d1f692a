"""Run the pages as their readers do, and note what came of it.

    nox -s readers -- [options] [PAGE …]

Every page is run as a notebook, in a kernel, and as a script, in a terminal, as downloaded: on
every Python that is there, under every start method. What each run came to is kept in
`docs/readers.json`, from which the site shows a table; a run of one page, or on one Python,
changes only its own entries.

A start method is set from outside: a line in the environment's site-packages makes it the default
before the page begins, as if that were the platform's.

Exits with 0 when all that ran works or is explained by the page, 1 otherwise.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses as dc
import datetime
import fcntl
import hashlib
import itertools
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bootstrap
import psutil
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "readers.json"
LOCK = ROOT / "requirements" / "readers.txt"
SCHEMA = 1

FORMS = {"notebook": ".ipynb", "script": ".py"}
START_METHODS = ("fork", "forkserver", "spawn")

GOOD = ("ok", "explained")
"""The outcomes with which the site is content."""

TIMEOUT = 600.0
"""Seconds that a run may take."""

GONE_WITHIN = 5.0
"""Seconds that the processes of a run get to go, once they have been killed."""

# Which of a reader's packages the table names.
NAMED = ("adaptive", "loky", "cloudpickle", "ipykernel", "numpy", "holoviews", "distributed")

MARK = "READERS_RUN"
START_METHOD = "READERS_START_METHOD"
START_METHOD_FILE = "readers_start_method.pth"
SET_START_METHOD = (
    f'import os; os.environ.get("{START_METHOD}") and exec("import multiprocessing.context as c; '
    f"c._default_context._default_context = c._concrete_contexts[os.environ['{START_METHOD}']]\")\n"
)

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERROR = re.compile(r"^(\w+\.)*[A-Z]\w*(Error|Exception|Exit|Interrupt|Pool)(:|$)")
_NO_WHEEL = re.compile(r"\b([\w.-]+)==\S+ has no (?:usable )?wheels")


class ReadersError(Exception):
    """The pages cannot be tried; the message tells the way out."""


@dc.dataclass(frozen=True, order=True)
class Task:
    """One thing to try."""

    page: str
    section: str
    form: str
    python: str
    start_method: str


@dc.dataclass(frozen=True)
class Entry:
    """What came of it, as it is kept."""

    task: Task
    outcome: str
    """ok, explained, failed, timeout, or works-after-all where the page says it cannot."""
    seconds: float
    error: str
    """The last line of the error, or the page's reason."""
    date: str
    digest: str
    """Fingerprint of what ran."""
    environment: str
    """Key of the environment in which it ran."""

    def to_json(self) -> dict[str, Any]:
        """Return it as one flat object."""
        rest = {name: value for name, value in dc.asdict(self).items() if name != "task"}
        return dc.asdict(self.task) | rest

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Read what `to_json` wrote."""
        fields = {field.name for field in dc.fields(Task)}
        task = Task(**{name: data[name] for name in fields})
        return cls(task, **{name: value for name, value in data.items() if name not in fields})


@dc.dataclass
class Record:
    """The data file."""

    path: Path
    environments: dict[str, dict[str, Any]] = dc.field(default_factory=dict)
    entries: dict[Task, Entry] = dc.field(default_factory=dict)
    there: set[tuple[str, str]] | None = None
    """The pages and sections of the site; entries of others are not kept."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read the file; it is empty where there is none.

        Raises
        ------
        ReadersError
            If it is damaged, or of another schema.
        """
        record = cls(path)
        if not path.exists():
            return record
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA:
                raise ReadersError(f"{path}: is of schema {data['schema']}, not {SCHEMA}.")
            record.environments = data["environments"]
            entries = [Entry.from_json(item) for item in data["runs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ReadersError(
                f"{path}: is damaged ({error!r}). Take the last one from git, or delete it."
            ) from error
        record.entries = {entry.task: entry for entry in entries}
        return record

    def add(self, entry: Entry, environment: Mapping[str, Any]) -> None:
        """Put a run in the place of the one before, and write the file.

        What another process has written meanwhile stays.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            latest = Record.read(self.path)
            self.entries = latest.entries | {entry.task: entry}
            self.environments = latest.environments | {entry.environment: dict(environment)}
            self.write()
        finally:
            os.close(folder)

    def write(self) -> None:
        """Write the file, one line a run, so that a change of one shows as one."""
        if self.there is not None:
            self.entries = {
                task: entry
                for task, entry in self.entries.items()
                if (task.page, task.section) in self.there
            }
        used = {entry.environment for entry in self.entries.values()}
        environments = {key: self.environments[key] for key in sorted(used)}
        runs = [json.dumps(self.entries[task].to_json()) for task in sorted(self.entries)]
        text = (
            f'{{"schema": {SCHEMA},\n"environments": {json.dumps(environments, indent=1)},\n'
            '"runs": [\n' + ",\n".join(runs) + "\n]}\n"
        )
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(self.path)


# -- Environments ---------------------------------------------------------------


@dc.dataclass(frozen=True)
class Environment:
    """A reader's environment of one Python."""

    version: str
    folder: Path
    key: str
    facts: Mapping[str, Any]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


def environment(version: str, folder: Path) -> Environment:
    """Prepare and describe the environment in `folder`.

    Raises
    ------
    ReadersError
        If its interpreter does not run.
    """
    code = (
        "import importlib.metadata as m, json, platform, sysconfig\n"
        "packages = {d.name: d.version for d in m.distributions()}\n"
        "print(json.dumps([platform.python_version(), platform.system(), platform.machine(),"
        " sysconfig.get_path('purelib'), packages]))"
    )
    python = folder / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ReadersError(f"{python} does not run: {done.stderr.strip()}")
    full, system, machine, site_packages, packages = json.loads(done.stdout)
    Path(site_packages, START_METHOD_FILE).write_text(SET_START_METHOD)
    digest = hashlib.sha256(json.dumps([full, system, machine, sorted(packages.items())]).encode())
    facts = {
        "python": full,
        "platform": f"{system} {machine}",
        "packages": {name: packages[name] for name in NAMED if name in packages},
        "without wheel": without_wheel(python),
    }
    return Environment(version, folder, f"{full}-{digest.hexdigest()[:8]}", facts)


def without_wheel(python: Path) -> list[str]:
    """Return the packages of the lock that this Python has to build from source."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        while True:
            done = subprocess.run(
                [
                    *(bootstrap.tool("uv"), "pip", "install", "--quiet", "--dry-run"),
                    *("--python", str(python), "--target", folder, "--requirements", str(LOCK)),
                    *("--only-binary", ":all:"),
                    *itertools.chain.from_iterable(("--no-binary", name) for name in found),
                ],
                capture_output=True,
                text=True,
            )
            match = _NO_WHEEL.search(done.stderr) if done.returncode else None
            if match is None or match[1] in found:
                return found
            found.append(match[1])


# -- Running --------------------------------------------------------------------


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
    """Return what a reader's shell has, with nothing of ours but the start method and a mark."""
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
        MARK: uuid.uuid4().hex,
    }
    return environ


def in_terminal(
    command: Sequence[str],
    cwd: Path,
    environ: Mapping[str, str],
    *,
    timeout: float,
    stop: threading.Event,
) -> tuple[int | None, str]:
    """Run a command in a terminal of its own.

    Returns
    -------
    status
        Its exit status, None when it took too long.
    output
        What stood in the terminal, without colours.
    """
    ours, theirs = pty.openpty()
    chunks: list[bytes] = []

    def listen() -> None:
        # On Linux, the end of the other side is an error.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = time.monotonic() + timeout
    status: int | None = None
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        try:
            while time.monotonic() < deadline and not stop.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(0.2)
                    break
        finally:
            end(process, environ[MARK])
    finally:
        os.close(theirs)
        listener.join()
        os.close(ours)
    return status, _ANSI.sub("", b"".join(chunks).decode(errors="replace")).replace("\r\n", "\n")


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill a run's process group, and whatever of it has left the group.

    Raises
    ------
    ReadersError
        If a process cannot be ended.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + GONE_WITHIN
    while left := list(marked(mark)):
        if time.monotonic() > deadline:
            raise ReadersError(f"processes {[p.pid for p in left]} of a run cannot be ended.")
        for other in left:
            with contextlib.suppress(psutil.Error):
                other.kill()
        time.sleep(0.05)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield the processes of a run, in whatever session they are."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                yield process


def last_error(output: str) -> str:
    """Return the line of a terminal's text that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or ["no output"])[-1][:300]


# -- The command ----------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    parser = argparse.ArgumentParser(
        prog="nox -s readers --",
        description="Run the pages as their readers do, "
        "and note in docs/readers.json what came of it.",
    )
    parser.add_argument(
        "pages", nargs="*", metavar="PAGE", help="such as tutorial/tutorial.LearnerND"
    )
    parser.add_argument("--python", action="append", help="such as 3.14; by default, all")
    parser.add_argument("--start-method", action="append", choices=START_METHODS)
    parser.add_argument("--form", action="append", choices=tuple(FORMS))
    parser.add_argument(
        "--sections", action="store_true", help="run each section of the pages by itself, instead"
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out what was good, and has not changed since"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds a run may take")
    parser.add_argument("--jobs", type=int, default=2, help="how many runs at once")
    parser.add_argument("--data", type=Path, default=DATA, help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, default=ROOT / "docs/source", help=argparse.SUPPRESS)
    parser.add_argument(
        "--environment", action="append", default=[], metavar="X.Y=FOLDER", help=argparse.SUPPRESS
    )
    return parser


def tasks(
    programs: Sequence[Mapping[str, Any]], pythons: Sequence[str], options: argparse.Namespace
) -> list[tuple[Task, Mapping[str, Any]]]:
    """Return what the options ask for.

    Raises
    ------
    ReadersError
        If they name a page that there is not.
    """
    known = {program["page"] for program in programs}
    wanted = set()
    for name in options.pages:
        docname = name.removeprefix("docs/source/").removesuffix(".md")
        matches = {page for page in known if docname in (page, page.rpartition("/")[2])}
        if not matches:
            raise ReadersError(f"no page {name!r} with code. There are: {', '.join(sorted(known))}")
        wanted |= matches
    if options.sections and not wanted:
        raise ReadersError("--sections wants the names of pages")
    return [
        (Task(program["page"], program["section"], form, python, method), program)
        for python in pythons
        for method in options.start_method or START_METHODS
        for form in options.form or FORMS
        for program in programs
        if bool(program["section"]) == options.sections
        and (not wanted or program["page"] in wanted)
    ]


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; return the exit status."""
    options = parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        record = Record.read(options.data)
        with tempfile.TemporaryDirectory(prefix="readers-programs-") as folder:
            programs = make_programs(options.source, Path(folder))
            record.there = {(program["page"], program["section"]) for program in programs}
            environments = {
                version: environment(version, Path(path).absolute())
                for version, _, path in (item.partition("=") for item in options.environment)
            }
            todo = tasks(programs, list(environments), options)
            if options.resume:
                todo = [item for item in todo if not _is_done(record, *item, environments)]
            done = _run_all(todo, Path(folder), environments, record, options)
    except ReadersError as error:
        print(f"readers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("readers: stopped; go on with --resume", file=sys.stderr)
        return 130
    counts = collections.Counter(entry.outcome for entry in done)
    print(
        "readers:",
        ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) or "nothing to do",
    )
    return 0 if set(counts) <= set(GOOD) else 1


def _interrupt(*_: object) -> None:
    # A shell's background job ignores SIGINT, and so would the pages, but for this handler.
    raise KeyboardInterrupt


def _is_done(
    record: Record, task: Task, program: Mapping[str, Any], environments: Mapping[str, Environment]
) -> bool:
    entry = record.entries.get(task)
    return (
        entry is not None
        and entry.outcome in GOOD
        and entry.digest == program["digests"][task.form]
        and entry.environment == environments[task.python].key
        and (entry.outcome == "explained") == bool(reason(program["limits"], task))
    )


def _run_all(
    todo: Sequence[tuple[Task, Mapping[str, Any]]],
    folder: Path,
    environments: Mapping[str, Environment],
    record: Record,
    options: argparse.Namespace,
) -> list[Entry]:
    stop = threading.Event()
    lock = threading.Lock()
    done: list[Entry] = []

    def one(task: Task, program: Mapping[str, Any]) -> None:
        if stop.is_set():
            return
        where = environments[task.python]
        entry = run(task, program, folder, where, timeout=options.timeout, stop=stop)
        if stop.is_set():
            return  # cut short: it tells nothing
        with lock:
            done.append(entry)
            record.add(entry, where.facts)
            what = f"{task.page} § {task.section}" if task.section else task.page
            print(
                f"[{len(done)}/{len(todo)}] {task.python} {task.start_method:10} {task.form:8} "
                f"{what}  {entry.outcome}  {entry.seconds:.1f} s"
                + (f"\n    {entry.error}" if entry.error else ""),
                flush=True,
            )

    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(one, *item) for item in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
