"""The processes of a run: whose they are, whether they watch, and what is left of them."""

from __future__ import annotations

import asyncio
import dataclasses as dc
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import execute, of, page
from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.recorder import events
from workercheck.run import clock, interpreters, leftovers, reaper
from workercheck.run.page import Page
from workercheck.run.processes import ProcessTree, is_alive
from workercheck.run.side_by_side import Run
from workercheck.run.unwatched import UnwatchedProcesses

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


# --- which Python a process is --------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A real environment, whose interpreter is a link to another one's."""
    folder = tmp_path_factory.mktemp("other") / "environment"
    venv.create(folder, symlinks=True)
    return folder.resolve()


def test_environment_is_told_by_the_path_and_not_by_the_binary(environment: Path) -> None:
    python = environment / "bin" / "python"
    assert os.path.realpath(python) == os.path.realpath(sys.executable)
    assert str(environment) == interpreters.environment_of(str(python))
    assert os.path.realpath(sys.prefix) == interpreters.environment_of(sys.executable)
    base = os.path.realpath(sys.executable)
    assert str(Path(base).parent.parent) == interpreters.environment_of(base)


def test_environment_is_the_same_through_a_link_to_its_folder(
    environment: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(environment)
    assert str(environment) == interpreters.environment_of(f"{link}/bin/python")


def test_program_is_found_as_it_was_called(environment: Path, tmp_path: Path) -> None:
    folder = str(environment / "bin")
    python = f"{folder}/python"
    assert python == interpreters.path_of("python", cwd="/", path=folder)
    assert f"{folder}/./python" == interpreters.path_of("./python", cwd=folder)
    assert python == interpreters.path_of(python, cwd="/nowhere")
    assert interpreters.path_of("python", cwd=folder, path=str(tmp_path)) is None
    assert interpreters.path_of("./python", cwd=str(tmp_path)) is None
    assert interpreters.path_of("python quick.py", cwd="/") is None
    assert interpreters.path_of("", cwd="/") is None
    assert interpreters.path_of("python\0", cwd="/") is None


@pytest.mark.parametrize("name", ["python", "python3", "python3.14", "python3.14t", "pypy3.11"])
def test_interpreter_is_known_by_its_name(name: str) -> None:
    assert interpreters.is_python(f"/nowhere/{name}")


@pytest.mark.parametrize("name", ["sleep", "python3-config", "ipython", "bash", "pythonista"])
def test_other_program_is_no_interpreter(name: str) -> None:
    assert not interpreters.is_python(f"/nowhere/{name}")


@pytest.mark.parametrize(
    "options", ["--version", "-V", "-VV", "-sV", "--help", "-h", "-W ignore -V", "-Xdev -?"]
)
def test_interpreter_that_shows_its_version_runs_no_code(options: str) -> None:
    assert not interpreters.runs_code(["python", *options.split()])
    # Nor does the recorder: nothing says that it watches.
    shown = subprocess.run([sys.executable, *options.split()], capture_output=True, text=True)
    assert "ython" in shown.stdout


@pytest.mark.parametrize(
    "words",
    ["", "-", "-c V", "-m V", "-sc V", "quick.py -V", "-W h quick.py", "-Wh -c 1", "-S -c 1"],
)
def test_interpreter_that_runs_code(words: str) -> None:
    assert interpreters.runs_code(["python", *words.split()])


@pytest.mark.parametrize("options", ["", "-S", "-I", "-s", "-E", "-Xdev -bS", "-W S", "-WS", "-Es"])
def test_interpreter_that_leaves_out_pth_files_is_known_by_its_options(options: str) -> None:
    code = "import sys; print(sys.flags.no_site or sys.flags.no_user_site)"
    command = [sys.executable, *options.split(), "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert interpreters.runs_site(command) is (shown.stdout.strip() in ("0", "False"))


# --- real pages -----------------------------------------------------------------------------------


def kernel(run: Run) -> int:
    return next(e.pid for e in of(run, ev.ProcessStarted) if not e.forked)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Run one page with these cells."""
    return lambda *cells, **kwargs: execute(page(tmp_path, *cells), **kwargs)[0]


@pytest.fixture
def sleep(tmp_path: Path) -> Iterator[str]:
    """A program that is no Python, by a path that no other test has."""
    program = tmp_path / "own-sleep"
    shutil.copy(str(shutil.which("sleep")), program)
    yield str(program)
    left = [
        p for p in psutil.process_iter(["cmdline"]) if str(program) in (p.info["cmdline"] or ())
    ]
    for process in left:
        process.kill()
    assert [] == left


def test_page_that_leaves_nothing_has_no_leftover(run, sleep: str) -> None:
    done = run(f"import subprocess\nsubprocess.run([{sleep!r}, '0.1'], start_new_session=True)")
    assert [] == of(done, ev.Leftover)
    assert [] == of(done, ev.Unwatched)
    assert ["Finished"] == [type(event).__name__ for event in done.events[-1:]]


DETACHED = {
    "its own session": "import subprocess\nprint(subprocess.Popen([{sleep!r}, '300'], env={{}}, "
    "start_new_session=True).pid)",
    # The shell goes at once, and init is the parent of what it leaves.
    "an orphan": "%%bash\nenv -i {sleep} 300 > /dev/null 2>&1 &\necho $!",
    # Nothing tells whose it is, but that it was seen below the page's bash.
    "an orphan in its own session": "%%bash\nsetsid env -i {sleep} 300 > /dev/null 2>&1 &\n"
    "echo $!\n{sleep} 1.5",
    "below another one": "import subprocess\nprint(subprocess.Popen(['/bin/sh', '-c', "
    "'{sleep} 300; true'], env={{}}, start_new_session=True).pid)",
}


@pytest.mark.parametrize("how", DETACHED)
def test_process_without_the_variable_is_found_and_ended(run, sleep: str, how: str) -> None:
    started = clock.now()
    done = run("1", DETACHED[how].format(sleep=sleep))
    (pid,) = [
        int(output.text) for output in done.notebook.cells[1].outputs if output.name == "stdout"
    ]
    left = {event.child: event for event in of(done, ev.Leftover)}
    assert pid in left
    assert Path(sleep).name in {event.command for event in left.values()}
    (cell,) = [event for event in of(done, ev.CellStarted) if event.cell == 1]
    for event in left.values():
        assert kernel(done) in event.parents or how == "an orphan in its own session"
        assert started < cell.time - 0.1 <= event.born <= cell.time + 2


def test_process_without_the_variable_is_not_found_by_the_variable(tmp_path: Path) -> None:
    """The fault in place: what the tree of processes is for."""
    evidence = Evidence(tmp_path).create()
    code = (
        "import subprocess, sys, time\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
        "subprocess.Popen(sleeper, env={}, start_new_session=True, stdout=subprocess.DEVNULL)\n"
        "print(flush=True)\ninput()"
    )
    # Not watched itself, so that nobody hands the variable on.
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(
        command,
        env=os.environ | evidence.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        tree = ProcessTree(tmp_path)
        tree.begin(parent.pid)
        assert parent.stdout is not None
        parent.stdout.readline()
        seen = {process.pid for process in tree.look()}
        parent.communicate(b"\n")
    assert parent.pid in seen
    (left,) = tree.look()
    try:
        assert left.pid in seen
        assert [] == reaper.processes_below(tmp_path)
        assert [left.pid] == list(tree.all())
        assert [parent.pid] == tree.parents(left.pid)
    finally:
        left.kill()


BUILD = """
import os, signal, subprocess, sys
from pathlib import Path
from workercheck.recorder import events
from workercheck.run import reaper

folder = Path(sys.argv[1])
with reaper.watching(folder):
    # The variable is there when the program is executed, a while after the build is gone.
    program = f"sleep 0.4; {events.ENV}={folder / 'page'} exec sleep 600"
    subprocess.Popen(["sh", "-c", program], stdout=subprocess.DEVNULL, start_new_session=True)
    print("started", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def ended_or_killed_build(folder: Path, how: str) -> list[psutil.Process]:
    """Return what is left a while after a build, which was starting a process, ended."""
    folder.mkdir()
    build = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder), how],
        check=False,
        timeout=60,
        stdout=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != events.ENV},
    )
    assert b"started\n" == build.stdout
    deadline = time.monotonic() + 30
    # The reaper removes the folder when it is done.
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()
    time.sleep(0.6)
    left = reaper.processes_below(folder)
    for process in left:
        process.kill()
    return left


def test_process_that_a_killed_build_was_starting_is_ended(tmp_path: Path) -> None:
    assert [] == ended_or_killed_build(tmp_path / "build", "killed")


def test_reaper_of_a_build_that_ended_looks_once(tmp_path: Path) -> None:
    # A build that ended has no process that is still starting: it does not wait for one.
    assert 1 == len(ended_or_killed_build(tmp_path / "build", "ended"))


def test_stranger_that_an_event_names_is_left_alone(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        started = ev.ChildStarted(
            pid=1,
            time=clock.now(),
            child=stranger.pid,
            place=0,
            target=None,
            argv=[],
            owned=True,
            pool=0,
            replaces=False,
        )
        # Its pid was another one's, before it began.
        old = clock.born(psutil.Process(stranger.pid)) - 5
        tree.learn([dc.replace(started, time=old)])
        tree.learn([dc.replace(started, child=1)])
        assert [] == tree.look()
        tree.learn([started])
        assert [stranger.pid] == [process.pid for process in tree.look()]
        stranger.communicate(b"\n")
    assert [] == tree.look()


def test_leftover_that_is_gone_as_soon_as_it_is_ended_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = Evidence(tmp_path).create()
    tree = ProcessTree(tmp_path)
    code = "import time; time.sleep(300)"
    left = subprocess.Popen([sys.executable, "-c", code], env=os.environ | evidence.environ)

    def kill(process: psutil.Process) -> None:
        left.kill()
        left.wait()

    monkeypatch.setattr(psutil.Process, "kill", kill)
    monkeypatch.setattr(leftovers, "GONE_WITHIN", 0.1)
    asyncio.run(leftovers.end_all(tree, evidence, {left.pid}, is_cut_short=False))
    told = [event for event in evidence.read() if isinstance(event, ev.Leftover)]
    assert [left.pid] == [event.child for event in told]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, only the clock on the wall tells")
def test_events_and_births_are_timed_by_one_clock_that_nobody_can_set(run) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    done = run("import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', ''])")
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before < done.events[0].time < done.events[-1].time < after
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        began = clock.born(psutil.Process(child.pid))
        child.communicate(b"\n")
    assert after - 0.1 < began < time.clock_gettime(time.CLOCK_BOOTTIME)


def test_process_is_alive_only_under_the_pid_it_had_then() -> None:
    own = psutil.Process()
    assert is_alive(own.pid, clock.now())
    assert not is_alive(own.pid, clock.born(own) - 3)
    assert not is_alive(10**12, clock.now())
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 30
    while is_alive(child.pid, clock.now()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child.pid, clock.now())  # a zombie
    child.wait()


# --- processes that do not watch ------------------------------------------------------------------

WATCHED = {
    "a program": "subprocess.run([sys.executable, '-c', '1'], check=True)",
    "its version": "subprocess.run([sys.executable, '--version'])",
    "ended at once": "child = subprocess.Popen([sys.executable, '-S', '-c', 'input()'])\n"
    "child.kill()\nchild.wait()",
    "a system tool": "subprocess.run([sys._base_executable, '-c', 'import time; time.sleep(3)'])",
    "stopped before it could say": "child = subprocess.Popen([sys.executable, '-c', '1'])\n"
    "child.send_signal(19)\ntime.sleep(1)\nchild.send_signal(18)\nchild.wait()",
    "ended while it was slow to start": "child = subprocess.Popen([sys.executable, '-c', '1'])\n"
    "child.send_signal(19)\ntime.sleep(3)\nchild.kill()\nchild.wait()",
}


@pytest.mark.parametrize("name", WATCHED)
def test_watched_process_is_not_told(run, name: str) -> None:
    done = run(f"import subprocess, sys, time\n{WATCHED[name]}")
    assert [None] == [event.exception for event in of(done, ev.CellFinished)]
    assert [] == of(done, ev.Unwatched)


UNWATCHED = {
    "it ends at once": "subprocess.run([sys.executable, '-S', '-c', '1'])",
    "it does not have the variable": "subprocess.run(['env', '-u', 'WORKERCHECK_EVIDENCE', "
    "sys.executable, '-c', 'import time; time.sleep(4)'])",
    "it runs on": "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(4)'])",
    "it was forked": "pid = os.fork()\nif not pid:\n    os.execv(sys.executable, [sys.executable, "
    "'-S', '-c', 'import time; time.sleep(4)'])\nos.waitpid(pid, 0)",
}


@pytest.mark.parametrize("name", UNWATCHED)
def test_process_of_the_environment_that_does_not_watch_is_told(run, name: str) -> None:
    done = run(f"import os, subprocess, sys\n{UNWATCHED[name]}")
    (event,) = of(done, ev.Unwatched)
    assert event.environment is None
    assert f"{Path(sys.executable).name} -c" == event.command


OTHER = """
import subprocess
subprocess.run([{python!r}, {script!r}], check=True)
"""


@pytest.mark.parametrize("works", [False, True], ids=["alone", "with workers"])
def test_python_of_another_environment_is_told_only_with_workers(
    run, tmp_path: Path, environment: Path, works: bool
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    with ProcessPoolExecutor(1) as executor:\n"
        "        executor.submit(time.sleep, 4).result()\n"
        if works
        else "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(4)'], check=True)\n"
    )
    python = str(environment / "bin" / "python")
    done = run(OTHER.format(python=python, script=str(script)))
    assert [(str(environment), "python script.py")] * works == [
        (event.environment, event.command) for event in of(done, ev.Unwatched)
    ]


anything = st.sampled_from(["", "\0", "\ud800", "/", "./x", sys.executable, "python", "sleep"])
numbers = st.integers(-(10**20), 10**20) | st.integers(-2, 5)
named = st.one_of(
    st.builds(
        ev.ProcessStarted,
        pid=numbers,
        time=st.floats(),
        ppid=numbers,
        group=numbers,
        argv=st.lists(anything, max_size=3),
        python=anything,
        executable=anything,
        forked=st.booleans(),
    ),
    st.builds(
        ev.ChildStarted,
        pid=numbers,
        time=st.floats(),
        child=numbers,
        place=numbers,
        target=st.none(),
        argv=st.lists(anything, max_size=3),
        owned=st.booleans(),
    ),
    st.builds(
        ev.SignalSent,
        pid=numbers,
        time=st.floats(),
        child=numbers,
        is_group=st.booleans(),
        signal=numbers,
        owned=st.booleans(),
    ),
)


@given(st.lists(named, max_size=8))
@settings(deadline=None)
def test_whatever_the_events_say_nothing_raises(tmp_path_factory, events: list[ev.Event]) -> None:
    evidence = Evidence(tmp_path_factory.mktemp("evidence")).create()
    tree = ProcessTree(evidence.folder)
    unwatched = UnwatchedProcesses(evidence, tree, Path("/"))
    tree.learn(events)
    unwatched.learn(events)
    unwatched.look(tree.look())
    unwatched.look_at_ended(unwatched.ended())
    for event in events:
        tree.parents(event.pid)
    assert [] == [event for event in evidence.read(final=True) if isinstance(event, ev.Damaged)]


# --- while a page runs ----------------------------------------------------------------------------

EXITS = """
import sys, time
from multiprocessing import get_context
pool = get_context("fork").Pool(1)
result = pool.apply_async({function}, (0,))
time.sleep(3)
"""


@pytest.mark.parametrize("function", ["sys.exit", "abs"])
def test_worker_that_ends_at_work_is_told_while_the_page_runs(run, function: str) -> None:
    done = run(EXITS.format(function=function))
    ended = of(done, ev.EndedAtWork)
    assert (["sys.exit"] if function == "sys.exit" else []) == [
        name for event in ended[:1] for name in event.globals if name == "sys.exit"
    ]
    assert bool(ended) == (function == "sys.exit")
    if ended:
        (finished,) = of(done, ev.CellFinished)
        assert done.events.index(ended[0]) < done.events.index(finished)
        assert ended[0].fingerprint in {e.fingerprint for e in of(done, ev.MessageSent)}


def test_reply_has_the_execution_count(run) -> None:
    done = run("1", "2", "1 / 0")
    assert [1, 2, 3] == [event.number for event in of(done, ev.CellFinished)]


RESPAWNS = """
import multiprocessing
def prepare():
    raise ValueError
multiprocessing.get_context("fork").Pool(2, prepare).apply(abs, (1,))
"""


def test_workers_that_are_replaced_for_ever_are_cut_off(run) -> None:
    asked: list[int] = []

    def has_failed(page: Page, events: list[ev.Event]) -> bool:
        asked.append(len(events))
        return any(isinstance(event, ev.Raised | ev.Exited) for event in events)

    done = run(RESPAWNS, has_failed=has_failed)
    assert [0] == [event.cell for event in of(done, ev.Stopped)]
    (started,) = of(done, ev.CellStarted)
    # Not after GRACE.
    assert of(done, ev.Stopped)[0].time - started.time < 4
    assert 1 == len(asked)


def test_page_that_is_not_failed_is_not_stopped(run) -> None:
    code = RESPAWNS.replace(
        "apply(abs, (1,))", "apply_async(abs, (1,))\nimport time; time.sleep(2)"
    )
    assert [] == of(run(code), ev.Stopped)


QUIET = """
import subprocess, time
for _ in range(5):
    subprocess.run(["true"])
    time.sleep(0.2)
"""


def test_judge_is_asked_only_when_something_may_have_failed(run) -> None:
    asked: list[int] = []

    def has_failed(page: Page, events: list[ev.Event]) -> bool:
        asked.append(len(events))
        return False

    run(QUIET, has_failed=has_failed)
    assert [] == asked
    run(
        RESPAWNS.replace("apply(", "apply_async(") + "import time\ntime.sleep(1)",
        has_failed=has_failed,
    )
    assert asked
    assert asked == sorted(set(asked))


def test_error_in_the_check_is_a_finding_on_that_page(tmp_path: Path) -> None:
    def has_failed(page: Page, events: list[ev.Event]) -> bool:
        raise LookupError("no such thing")

    broken, good = execute(
        page(tmp_path, RESPAWNS, name="broken"),
        page(tmp_path, "print(6 * 7)", name="good"),
        has_failed=has_failed,
    )
    (died,) = of(broken, ev.KernelDied)
    assert "workercheck could not run the page: LookupError: no such thing" == died.message
    assert died.cell is None
    assert [] == of(good, ev.KernelDied)
    assert "42\n" == good.notebook.cells[0].outputs[0].text


DIES = """
import os, time, loky
loky.get_reusable_executor(max_workers=1).submit(time.sleep, 60)
time.sleep(1)
os._exit(1)
"""


def test_what_goes_with_its_kernel_did_not_end_at_work(run) -> None:
    done = run(DIES)
    assert [0] == [event.cell for event in of(done, ev.KernelDied)]
    assert [] == of(done, ev.EndedAtWork)


DIES_LATER = """
import os, threading, time
from multiprocessing import get_context
pool = get_context("fork").Pool(1)
result = pool.apply_async(time.sleep, (9,))
threading.Timer(0.5, os._exit, (1,)).start()
"""


def test_kernel_that_ends_after_the_last_cell_died(run) -> None:
    done = run(DIES_LATER)
    assert [0] == [event.cell for event in of(done, ev.KernelDied)]
    assert done.seconds < 15


SLOW_TO_END = """
import atexit, subprocess, time
atexit.register(time.sleep, 10)
subprocess.run(["sh", "-c", "env -i {sleep} 300 > /dev/null 2>&1 & "])
subprocess.Popen([{sleep!r}, "301"])
"""


def test_verdict_is_the_same_when_the_kernel_takes_long_to_end(run, sleep: str) -> None:
    done = run(SLOW_TO_END.format(sleep=sleep))
    # The other one is the kernel's to end.
    assert [Path(sleep).name] == [event.command for event in of(done, ev.Leftover)]
