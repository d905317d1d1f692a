"""What a page ran of its project is known, whichever process ran it and whatever became of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from test_run_processes import execute, page
from workercheck.evidence import records as ev
from workercheck.run import sources
from workercheck.run.side_by_side import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

CELLS = {
    "imported": "import imported",
    "package/__init__": "import package.part",
    "package/part": "",
    "removed": "import sys, removed\ndel sys.modules['removed']",
    "beside_hostile": """
class Hostile:
    def __getattr__(self, name):
        raise RuntimeError(name)

sys.modules["hostile"] = Hostile()
import beside_hostile
""",
    "fails": """
try:
    import fails
except ZeroDivisionError:
    pass
""",
    "by_hand": """
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("any_name", "by_hand.py")
spec.loader.exec_module(module_from_spec(spec))
""",
    "by_run": "%run by_run.py",
    "by_runpy": "import runpy\n_ = runpy.run_path('by_runpy.py')",
    "as_script": "!{sys.executable} as_script.py",
    "below_script": "",
    "as_module": "import subprocess\n_ = subprocess.run([sys.executable, '-m', 'as_module'])",
    "in_bare": """
_ = subprocess.run([sys.executable, "-c", "import runpy; runpy.run_path('in_bare.py')"])
""",
    "in_worker": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
context = multiprocessing.get_context("forkserver")
with ProcessPoolExecutor(1, mp_context=context) as executor:
    executor.submit(eval, "__import__('in_worker').value").result()
""",
    "in_fork": """
process = multiprocessing.get_context("fork").Process(target=__import__, args=("in_fork",))
process.start()
process.join()
""",
    "in_killed": """
code = "import in_killed, time; print(flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
process.stdout.read(1)
process.kill()
process.communicate()
""",
}
CONTENT = {"as_script": "import below_script\n", "fails": "1 / 0\n"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in [*CELLS, "of_nobody"]:
        file = folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(CONTENT.get(name, "value = 1\n"))
    return folder


@pytest.fixture(scope="module")
def done(project: Path) -> Run:
    run = execute(page(project, *filter(None, CELLS.values())))[0]
    failed = [event for event in run.events if getattr(event, "exception", None)]
    assert [] == failed
    return run


def test_what_any_process_imported_or_ran_is_known(done: Run, project: Path) -> None:
    assert done.sources is not None
    found = {Path(path).relative_to(project).as_posix() for path in done.sources}
    assert {f"{name}.py" for name in CELLS} == found


def test_nothing_that_is_installed_is_told(done: Run, project: Path) -> None:
    told = [event.path for event in done.events if isinstance(event, ev.FileRan)]
    assert [] == [path for path in told if not path.startswith(f"{project}{os.sep}")]


def test_change_of_any_file_is_seen(done: Run, project: Path) -> None:
    assert done.sources is not None
    assert sources.unchanged(done.sources)
    for path, content in [(Path(path), Path(path).read_bytes()) for path in done.sources]:
        path.write_bytes(content + b"\n")
        assert not sources.unchanged(done.sources)
        path.unlink()
        assert not sources.unchanged(done.sources)
        path.write_bytes(content)
    assert sources.unchanged(done.sources)


def test_where_it_cannot_be_known_nothing_is_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("value = 1\n")
    status = file.stat()
    ran = ev.FileRan(
        pid=1, time=1.0, path=str(file), size=status.st_size, modified=status.st_mtime_ns
    )
    last_words = ev.LastWords(pid=1, time=2.0, token="")
    assert {str(file)} == (sources.used([ran, last_words]) or {}).keys()
    # A kernel that had no last words may have run more than it told.
    assert sources.used([ran]) is None
    assert sources.used([ran, last_words, ev.Unanswered(pid=1, time=2.0)]) is None
    assert not sources.unchanged(None)
    # Edited while the page ran: nobody knows which of the two it ran.
    os.utime(file, ns=(0, 0))
    assert sources.used([ran, last_words]) is None
    file.unlink()
    assert sources.used([ran, last_words]) is None


READS_AND_WRITES = {
    "reads": ("print(open('data.csv').read())", {"data.csv"}),
    "reads bytes": ("print(open(b'data.csv', 'rb').read())", {"data.csv"}),
    "reads a path": ("print(Path('data.csv').read_text())", {"data.csv"}),
    "reads through a link": (
        "import os\nos.symlink('data.csv', 'link')\nprint(open('link').read())",
        {"data.csv"},
    ),
    "reads what a removed link led to": (
        "os.symlink('data.csv', 'link')\nos.unlink('link')\nprint(open('data.csv').read())",
        {"data.csv"},
    ),
    "removes": ("os.remove('data.csv')\n!echo 5 > data.csv\nopen('data.csv').close()", set()),
    "reads in a process": (
        """
context = multiprocessing.get_context("forkserver")
with ProcessPoolExecutor(1, mp_context=context) as executor:
    print(executor.submit(Path.read_text, Path("data.csv")).result())
""",
        {"data.csv"},
    ),
    "copies and reads": (
        "shutil.copy('data.csv', 'copy.csv')\nprint(open('copy.csv').read())",
        {"data.csv"},
    ),
    "copies and runs": (
        "shutil.copy('helper.py', 'copy.py')\n!{sys.executable} copy.py\nos.unlink('copy.py')",
        {"helper.py"},
    ),
    "moves away and back": ("os.rename('data.csv', 'a')\nos.rename('a', 'data.csv')", {"data.csv"}),
    "writes": ("Path('new.csv').write_text('1')\nprint(open('new.csv').read())", set()),
    "replaces": ("Path('data.csv').write_text('2')\nprint(open('data.csv').read())", set()),
    "replaces by another": (
        "Path('a').write_text('3')\nos.replace('a', 'data.csv')\nopen('data.csv').close()",
        set(),
    ),
    "runs what it wrote and removes it": (
        """
with tempfile.TemporaryDirectory() as folder:
    script = Path(folder, "script.py")
    script.write_text("import json")
    subprocess.run([sys.executable, script], check=True)
""",
        set(),
    ),
    "runs what another program wrote": (
        "!cp helper.py copy.py\n!{sys.executable} copy.py\nos.unlink('copy.py')",
        None,
    ),
    "appends": ("_ = open('data.csv', 'a').write('4')", set()),
    "appends and reads": (
        "_ = Path('data.csv').open('a').write('4')\nprint(open('data.csv').read())",
        {"data.csv"},
    ),
    "opens to read and write": ("_ = open('data.csv', 'r+').write('4')", None),
    "changes what it read": (
        "text = open('data.csv').read()\n_ = Path('data.csv').write_text('not ' + text)",
        None,
    ),
    "reads while the system is replaced": (
        """
from unittest import mock
with mock.patch("os.lstat", None):
    open("data.csv").close()
""",
        None,
    ),
    "opens what is no path": (
        """
for path in ("a\\0b", 7.5):
    try:
        open(path)
    except (ValueError, TypeError):
        pass
sys.audit("open", 1)
""",
        set(),
    ),
    "removes its own folder": (
        "os.makedirs('a/b')\nos.chdir('a')\nshutil.rmtree(os.getcwd())\nos.chdir('/')",
        set(),
    ),
    "reads outside": ("_ = open('/proc/self/status').read(), open('../secret').read()", set()),
    "reads what is hidden": ("_ = open('.git/HEAD').read()", set()),
    "opens what is not there": (
        "try:\n    open('nothing')\nexcept OSError:\n    pass\nos.listdir()",
        set(),
    ),
}


@pytest.mark.parametrize("name", READS_AND_WRITES)
def test_what_a_page_read_of_its_project_is_known(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("")
    project = tmp_path / "project"
    for file, text in {"data.csv": "1", "helper.py": "print(1)", ".git/HEAD": ""}.items():
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text(text)
    cell, expected = READS_AND_WRITES[name]
    imports = """
import multiprocessing, os, shutil, subprocess, sys, tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
"""
    run = execute(page(project, imports, cell))[0]
    assert [] == [event for event in run.events if getattr(event, "exception", None)]
    found = run.sources
    if found is not None:
        found = {Path(path).relative_to(project).as_posix() for path in found}
    assert expected == found


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), "docs/pages"),
        (("docs/conf.py",), "docs"),
        (("docs/conf.py", "pyproject.toml"), "."),
        (("docs/conf.py", ".git/HEAD"), "."),
        (("setup.py", "docs/pages/pyproject.toml"), "docs/pages"),
    ],
)
def test_project_of_a_page_is_found(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    folder = tmp_path / "docs/pages"
    folder.mkdir(parents=True)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert tmp_path / expected == sources.project_of(folder)
