"""``workercheck run PAGE…``: notebooks and MyST pages, executed and judged without Sphinx."""

from __future__ import annotations

import dataclasses as dc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import psutil
import pytest
from conftest import BROKEN, HEADER, PASSES, ROOT, Site
from myst_nb.core.config import NbParserConfig
from myst_parser.config.main import MdParserConfig
from workercheck.fronts.commands import read_page
from workercheck.fronts.sphinx import read_page as sphinx_read_page
from workercheck.run.page import Page

# Everything that could read a page with Sphinx, out of reach.
WITHOUT_SPHINX = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sphinx", "docutils", "myst_nb", "myst_parser"):
            raise ModuleNotFoundError(f"{name} is out of reach", name=name)

sys.meta_path.insert(0, Without())
from workercheck.fronts.commands.main import main
sys.exit(main(sys.argv[1:]))
"""
NESTED = f"""{HEADER}# Nested

```{{code-cell}}
print("not nested")
```

- an item

  ```{{code-cell}}
  {PASSES}
  ```

````{{note}}
```{{code-cell}}
{PASSES}
```
````

````{{code-block}} markdown
```{{code-cell}}
quoted
```
````
"""


@dc.dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def executed(self) -> list[str]:
        """The pages that ran, by name."""
        return sorted(re.findall(r"^workercheck: \[\d+/\d+\] (\S+) ", self.err, re.MULTILINE))


def run(folder: Path, *words: str, program: tuple[str, ...] = ("-m", "workercheck")) -> Done:
    done = subprocess.run(
        [sys.executable, *program, "run", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def write_notebook(path: Path, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)


@dc.dataclass
class Both:
    """The same pages, built with Sphinx, and run without."""

    folder: Path
    sphinx: dict[str, list[dict[str, Any]]]
    """The findings of the build, by page."""
    first: Done
    second: Done

    def findings(self, name: str) -> list[dict[str, Any]]:
        report = json.loads((self.folder / "report.json").read_text())
        return next(p["findings"] for p in report["pages"] if p["source"] == f"source/{name}")


NAMES = ("red.md", "notebook.ipynb", "green.md", "expected.md", "absent.md", "nested.md")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    site = Site(tmp_path_factory.mktemp("both"))
    site.write("red", PASSES, BROKEN)
    write_notebook(site.source / "notebook.ipynb", PASSES, BROKEN)
    site.write("green", PASSES)
    site.write("expected", BROKEN, tags="expect-worker-error")
    site.write("absent", PASSES, tags="expect-worker-error")
    site.write("nested", text=NESTED)
    build = site.build("-j", "3")
    findings = {
        Path(page["source"]).name: page["findings"]
        for page in build.report["pages"]
        if page["docname"] != "index"
    }
    before = {name: (site.source / name).read_bytes() for name in NAMES}
    words = [f"source/{name}" for name in NAMES]
    first = run(site.root, *words, "--jobs", "3", "--report", "report.json")
    second = run(site.root, *words, "--jobs", "2", "--format", "github")
    assert before == {name: (site.source / name).read_bytes() for name in NAMES}
    return Both(site.root, findings, first, second)


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_those_of_sphinx(both: Both, name: str) -> None:
    theirs, ours = both.sphinx[name], both.findings(name)
    for finding in (*theirs, *ours):  # of two runs, which differ by this alone
        finding["process"] = re.sub(r"\d+", "PID", finding["process"] or "")
    assert theirs == ours


def test_lost_work_is_told_with_file_line_and_hint(both: Both) -> None:
    assert 1 == both.first.status
    (line,) = [x for x in both.first.out.splitlines() if x.startswith("source/red.md:13: ")]
    assert "a worker could not unpickle __main__.area" in line
    assert "Move area into a module that both processes can import" in line
    (line,) = [x for x in both.first.out.splitlines() if x.startswith("source/notebook.ipynb:")]
    assert "code cell 2, 'import multiprocessing': a worker could not unpickle" in line
    cell = int(line.split(":")[1])
    text = (both.folder / "source" / "notebook.ipynb").read_text().splitlines()
    assert '"cell_type": "code"' in text[cell - 1]
    assert 1 == sum('"cell_type": "code"' in before for before in text[: cell - 1])


def test_failures_that_are_missing_and_cells_that_nobody_runs_are_found(both: Both) -> None:
    assert [(True, 9)] == [(f["expected"], f["line"]) for f in both.findings("expected.md")]
    assert ["expected-but-absent"] == [f["kind"] for f in both.findings("absent.md")]
    assert [("not-executed", 15), ("not-executed", 20)] == [
        (f["kind"], f["line"]) for f in both.findings("nested.md")
    ]


def test_progress_is_that_of_a_build(both: Both) -> None:
    assert "workercheck: executing 6 pages, 3 at a time\n" in both.first.err
    assert re.search(
        r"^workercheck: \[\d/6\] source/green.md  \d+\.\d s  ok$", both.first.err, re.M
    )
    assert len(NAMES) == len(both.first.executed)
    assert re.search(r"\] source/red.md  \d+\.\d s  FAILED \(1\)$", both.first.err, re.M)


def test_second_run_executes_only_what_failed(both: Both) -> None:
    assert 1 == both.second.status
    failed = ["absent.md", "nested.md", "notebook.ipynb", "red.md"]
    assert [f"source/{name}" for name in failed] == both.second.executed


def test_github_annotates_each_page(both: Both) -> None:
    lines = both.second.out.splitlines()
    assert 6 == len(lines)
    assert lines[0].startswith("::error file=source/red.md,line=13,title=workercheck unpickle-ta")
    assert lines[2].startswith("::notice file=source/expected.md,line=9,title=workercheck unpi")


def test_green_page_is_executed_once_and_again_when_its_code_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{HEADER}# Page\n\n```{{code-cell}}\n{PASSES}\n```\n")
    first = run(tmp_path, "page.md", program=("-c", WITHOUT_SPHINX))
    assert (0, ["page.md"]) == (first.status, first.executed), first.err
    page.write_text(page.read_text().replace("# Page", "# Another title"))
    second = run(tmp_path, "page.md")
    assert (0, "") == (second.status, second.err)
    assert "workercheck: 1 page with code, 0 failed (1 from the cache)\n" == second.out
    page.write_text(page.read_text().replace(PASSES, "raise KeyError(6 * 7)"))
    third = run(tmp_path, "page.md")
    assert (1, ["page.md"]) == (third.status, third.executed)
    assert "page.md:9: the cell failed (KeyError: 42)" in third.out
    assert "*\n" == (tmp_path / ".workercheck" / ".gitignore").read_text()


def test_page_named_is_executed_whatever_outputs_are_stored(tmp_path: Path) -> None:
    write_notebook(tmp_path / "stored.ipynb", "import time; time.sleep(30)")
    notebook = nbformat.read(tmp_path / "stored.ipynb", as_version=4)
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="stale")]
    nbformat.write(notebook, tmp_path / "stored.ipynb")
    done = run(tmp_path, "stored.ipynb", "--timeout", "1", "--format", "junit")
    assert 1 == done.status
    (case,) = ElementTree.fromstring(done.out)
    failure = case.find("failure")
    assert ("stored.ipynb", "cell-timeout") == (case.get("name"), failure.get("type"))
    assert "the cell did not end within 1 s" in failure.text


def test_where_nothing_was_executed_it_cannot_tell(tmp_path: Path) -> None:
    header = HEADER.replace("---\n\n", 'mystnb: {execution_mode: "off"}\n---\n\n')
    (tmp_path / "page.md").write_text(f"{header}```{{code-cell}}\n{PASSES}\n```\n")
    write_notebook(tmp_path / "stored.ipynb", PASSES)
    notebook = nbformat.read(tmp_path / "stored.ipynb", as_version=4)
    notebook.metadata["mystnb"] = {"execution_mode": "auto"}
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="stored")]
    nbformat.write(notebook, tmp_path / "stored.ipynb")
    done = run(tmp_path, "page.md", "stored.ipynb", "--format", "json")
    assert 2 == done.status
    report = json.loads(done.out)
    assert [False, False] == [page["executed"] for page in report["pages"]]
    why = {page["source"]: page["why_not_executed"] for page in report["pages"]}
    assert why["page.md"].startswith("as its header says")
    assert why["stored.ipynb"].startswith("as its outputs are stored in the file")
    assert "" != report["environment"]["key"]
    assert "no verdict: no page was executed" in done.err


CELL = f"```{{code-cell}}\n{PASSES}\n```\n"
BAD = {
    "no-such.md": (None, "no-such.md: no such file. "),
    "folder": (
        None,
        "folder: the path is a folder. Name the pages in it, which end in .ipynb or .md.",
    ),
    "program.py": (
        b"1\n",
        "program.py: the file is not a page: its name does not end in .ipynb or .md. To run",
    ),
    "latin.md": (
        HEADER.encode() + "Käse\n".encode("latin-1"),
        "latin.md:1: the file is not utf-8 (invalid continuation byte). Save it as UTF-8.",
    ),
    "empty.md": (
        f"{HEADER}# Text only\n",
        "empty.md: the page has no code cell to run. Leave the page out.",
    ),
    "no-header.md": (
        CELL,
        "no-header.md:1: the page is no notebook: its header does not say so. Leave",
    ),
    "broken-header.md": (
        f"---\nfile_format: mystnb\nkernelspec: {{name\n---\n\n{CELL}",
        "broken-header.md:3: the page's header is not YAML (",
    ),
    "no-kernel.md": (
        f"---\nfile_format: mystnb\n---\n\n{CELL}",
        "no-kernel.md:1: the page names no kernel. Add a kernel to its header: kernelspec: {name: ",
    ),
    "other-kernel.md": (
        HEADER.replace("python3", "fortran") + CELL,
        "other-kernel.md:4: the kernel 'fortran' is not installed here. Install the kernel",
    ),
    "mode.md": (
        HEADER.replace("---\n\n", "mystnb:\n  execution_mode: off\n---\n\n") + CELL,
        "mode.md:6: the page's 'mystnb' header is not valid (execution_mode is False). ",
    ),
    "word.md": (
        HEADER.replace("---\n\n", "workercheck: alone\n---\n\n") + CELL,
        "word.md:5: the page's 'workercheck' header is 'alone', which is not a mapping. The only ",
    ),
    "tags.md": (
        HEADER + CELL.replace("}\n", "}\n:tags: hide-input\n", 1),
        "tags.md:8: the tags of a cell are 'hide-input', which is not a list. Write the tags like",
    ),
    "load.md": (
        HEADER + "```{code-cell}\n:load: gone.py\n```\n",
        "load.md:8: a cell loads gone.py, which cannot be read (",
    ),
    "damaged.ipynb": (
        "{",
        "damaged.ipynb:1: the page cannot be read as a notebook (Notebook does not",
    ),
    "old.ipynb": (
        json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])),
        "old.ipynb:1: the page names no kernel. Choose a kernel in Jupyter and save the notebook.",
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "folder").mkdir()
    for name, (content, _) in BAD.items():
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(data)
    (folder / "good.md").write_text(
        f"{HEADER}```{{code-cell}}\nopen('was-run', 'w').close()\n```\n"
    )
    (folder / "link.md").symlink_to("good.md")
    done = run(folder, "good.md", *BAD, "./good.md", "link.md")
    assert not (folder / "was-run").exists()
    return done


@pytest.mark.parametrize("name", BAD)
def test_page_that_cannot_be_run_is_named_on_one_line(refused: Done, name: str) -> None:
    (line,) = [line for line in refused.err.splitlines() if re.match(rf"{name}[: ]", line)]
    assert line.startswith(BAD[name][1])
    assert len(line) < 500


def test_nothing_else_is_said_and_nothing_runs(refused: Done) -> None:
    assert (2, "") == (refused.status, refused.out)
    assert "good.md: the page is named twice. Name each page once." in refused.err
    assert "link.md: the page is named twice. Name each page once." in refused.err
    assert len(BAD) + 2 == len(refused.err.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["python", "script.py"], "'python' is no page; write -- before a command"),
        (["script.py", "3"], "command: workercheck run -- python script.py 3\n"),
        (["page.md", "--jobs", "0"], "0 is not more than 0"),
        (["page.md", "--timeout", "soon"], "invalid number value: 'soon'"),
        (["--jobs", "2", "--", "true"], "--jobs and --timeout are for pages"),
    ],
)
def test_bad_call_is_an_error(words: list[str], message: str, tmp_path: Path) -> None:
    done = run(tmp_path, *words)
    assert 2 == done.status
    assert message in done.err


SLEEPS = """
import pathlib, time
from concurrent.futures import ProcessPoolExecutor
executor = ProcessPoolExecutor(1)
executor.submit(time.sleep, 600)
while not executor._processes:
    time.sleep(0.01)
pathlib.Path("ready-{name}").touch()
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    for name in ("one", "two"):
        cell = SLEEPS.format(name=name).strip()
        (tmp_path / f"{name}.md").write_text(f"{HEADER}```{{code-cell}}\n{cell}\n```\n")
    words = ["run", "one.md", "two.md", "--jobs", "2", "--timeout", "600", "--report", "r.json"]
    with subprocess.Popen(
        [sys.executable, "-m", "workercheck", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not all((tmp_path / f"ready-{name}").exists() for name in ("one", "two")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 4
        process.send_signal(number)
        out, err = process.communicate()
    assert (2, "") == (process.returncode, out)
    assert err.endswith("workercheck: interrupted, and every kernel has been ended\n")
    assert not (tmp_path / "r.json").exists()
    _, left = psutil.wait_procs(started, timeout=30)
    assert [] == left


def test_runs_at_once_share_a_cache(tmp_path: Path) -> None:
    names = [f"page-{number}.md" for number in range(3)]
    for name in names:
        (tmp_path / name).write_text(f"{HEADER}```{{code-cell}}\nprint({name!r})\n```\n")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "workercheck", "run", *names],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, _ = process.communicate()
        assert 0 == process.returncode, out
        assert "damaged" not in out
    done = run(tmp_path, *names)
    assert (0, "") == (done.status, done.err)
    assert "3 from the cache" in done.out


CORPUS = sorted(
    path
    for folder in ("tests/faults", "tests/healthy", "docs/source")
    for path in (ROOT / folder).rglob("*.md")
    if "file_format: mystnb" in path.read_text().partition("\n---\n")[0]
)


def as_read(page: Page) -> dict[str, Any]:
    """Return what of a page does not concern its looks."""
    cells = [dc.replace(cell, position=0) for cell in page.cells if not cell.evaluates]
    return {
        field.name: getattr(page, field.name)
        for field in dc.fields(page)
        if field.name not in ("notebook", "cells")
    } | {"kernel": page.kernel_name, "cells": cells}


def test_pages_are_read_as_myst_nb_reads_them() -> None:
    assert len(CORPUS) > 300
    config = NbParserConfig(execution_mode="cache")
    for path in CORPUS:
        text = path.read_text()
        theirs = sphinx_read_page.read("page", path, text, MdParserConfig(), config)
        assert theirs is not None, path
        ours = read_page.read("page", path, text)
        assert as_read(theirs) == as_read(ours), path
        assert [] == list(read_page.unconverted_cells(ours, text)), path


@pytest.mark.parametrize(
    "text",
    [
        f'{HEADER}# A\n\n+++ {{"tags": ["a"]}}\n\nB\n\n{CELL}\n+++\n\nC\n',
        HEADER.replace("---\n\n", "...\n\n") + CELL,
        HEADER + "```{code-cell} ipython3\n---\ntags: [a, b]\nother: 1\n---\n\n\n1\n\n2\n```",
        HEADER + "~~~{code-cell}\n:tags: [a]\n\n1\n~~~\n\n````{code-cell}\n'''\n```\n'''\n````\n",
        HEADER + f"```{{code-cell}}\n:load: {Path(__file__).name}\n```\n",
        HEADER + "```{raw-cell}\nraw\n```\n\n    ```{code-cell}\n    a quotation\n    ```\n" + CELL,
        "---\njupytext: {text_representation: {format_name: myst}}\n"
        f"kernelspec: {{name: python3}}\n---\n{CELL}",
        HEADER.replace("---\n\n", "mystnb: {execution_timeout: -1}\n---\n\n") + CELL,
        HEADER.replace(
            "---\n\n",
            "mystnb: {execution_in_temp: true, execution_allow_errors: true}\n"
            "workercheck: {exclusive: true}\n---\n\n",
        )
        + CELL,
        HEADER + "An {eval}`answer` in the text.\n\n" + CELL,
    ],
)
def test_unusual_pages_are_read_as_myst_nb_reads_them(text: str) -> None:
    path = Path(__file__)
    config = NbParserConfig(execution_mode="cache")
    theirs = sphinx_read_page.read("page", path, text, MdParserConfig(), config)
    assert theirs is not None
    ours = read_page.read("page", path.with_suffix(".md"), text)
    assert as_read(dc.replace(theirs, path=ours.path)) == as_read(ours)
    assert [] == list(read_page.unconverted_cells(ours, text))


STEPS_BACK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(id, t);
  if (id == CLOCK_REALTIME && access(getenv("STEPPED_BACK"), F_OK) == 0) t->tv_sec -= 3600;
  return status;
}
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec s;
  clock_gettime(CLOCK_REALTIME, &s);
  t->tv_sec = s.tv_sec;
  t->tv_usec = s.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *t) {
  struct timespec s;
  clock_gettime(CLOCK_REALTIME, &s);
  if (t) *t = s.tv_sec;
  return s.tv_sec;
}
"""
STEPPING = f"""{HEADER}# Stepping

```{{code-cell}}
import os, signal, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
before = time.time()
open(os.environ["STEPPED_BACK"], "w").close()
assert time.time() < before - 3000
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
```

```{{code-cell}}
with ProcessPoolExecutor(1) as executor:
    future = executor.submit(signal.raise_signal, signal.SIGKILL)
```

```{{code-cell}}
with ProcessPoolExecutor(1) as executor:
    future = executor.submit(divmod, 1, 0)
```
"""


def test_clock_of_the_machine_that_steps_back_misleads_nothing(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("no C compiler, or no library can be put before the others")
    (tmp_path / "back.c").write_text(STEPS_BACK)
    library = tmp_path / "back.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, tmp_path / "back.c", "-ldl"], check=True
    )
    (tmp_path / "page.md").write_text(STEPPING)
    run = subprocess.run(
        [sys.executable, "-m", "workercheck", "run", "--report", "report.json", "page.md"],
        cwd=tmp_path,
        env=os.environ | {"LD_PRELOAD": str(library), "STEPPED_BACK": str(tmp_path / "stepped")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    (page,) = json.loads((tmp_path / "report.json").read_text())["pages"]
    kinds = {(f["cell"], f["kind"]) for f in page["findings"]}
    assert {(1, "worker-died"), (2, "unseen-failure")} <= kinds
    assert {kind for cell, kind in kinds if cell == 0} <= {"leftover-process"}
