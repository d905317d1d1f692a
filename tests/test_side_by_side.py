"""Pages side by side: their order, what their kernels get, and kernels of other languages."""

from __future__ import annotations

import dataclasses as dc
import json
import sys
from pathlib import Path

import pytest
from runs import execute, findings, never, of, page
from workercheck.evidence import records as ev
from workercheck.run import schedule
from workercheck.run.side_by_side import Run, run_pages

TIMEOUT = 'import os\nprint(os.environ.get("OPENBLAS_THREAD_TIMEOUT"))'

OTHER_LANGUAGE = """
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

class Echo(Kernel):
    implementation = "echo"
    implementation_version = "1"
    banner = ""
    language_info = {"name": "echo", "mimetype": "text/plain", "file_extension": ".txt"}
    heard = []

    def do_execute(self, code, silent, *args, **kwargs):
        self.heard.append(code)
        stream = {"name": "stdout", "text": repr(self.heard)}
        self.send_response(self.iopub_socket, "stream", stream)
        return {"status": "ok", "execution_count": len(self.heard), "payload": []}

IPKernelApp.launch_instance(kernel_class=Echo)
"""


def printed(run: Run) -> str:
    return str(run.notebook.cells[-1].outputs[0].text).strip()


def test_threads_of_openblas_sleep_while_pages_have_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    pages = [page(tmp_path, TIMEOUT, name=name) for name in ("a", "b", "c")]
    pages[2] = dc.replace(pages[2], exclusive=True)
    assert ["4", "4", "None"] == [printed(run) for run in execute(*pages)]
    assert ["None", "None"] == [printed(run) for run in execute(*pages[:2], jobs=1)]
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
    assert ["20", "20"] == [printed(run) for run in execute(*pages[:2])]


@pytest.mark.parametrize("recorder", [[], ["-u", "WORKERCHECK_EVIDENCE"]], ids=["with", "without"])
def test_kernel_of_another_language_gets_the_code_of_the_page_only_and_no_wait(
    recorder: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echo.py").write_text(OTHER_LANGUAGE)
    folder = tmp_path / "jupyter" / "kernels" / "echo"
    folder.mkdir(parents=True)
    argv = ["env", *recorder, sys.executable, str(tmp_path / "echo.py"), "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "echo", "language": "echo"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    foreign = page(tmp_path, "one", "two")
    foreign.notebook.metadata["kernelspec"]["name"] = "echo"
    (run,) = execute(foreign)
    assert printed(run) == "['one', 'two']"
    assert not of(run, ev.Unanswered)
    assert not findings(run)


OWN_FILE = """
import pathlib, time
file = pathlib.Path("data", {file})
file.parent.mkdir(exist_ok=True)
file.write_text({text!r})
print("ran", file=open({log!r}, "a"))
deadline = time.monotonic() + 5
while len(pathlib.Path({log!r}).read_text().split()) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.5)
print(file.read_text())
"""


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [
        ("'out.txt'", "'out.txt'", "out.txt"),
        ("f'out_{1 + 1}.txt'", "f'out_{2}.txt'", "out_2.txt"),
        ("'out_%02d.txt' % 2", "'out_{:02}.txt'.format(2)", "out_02.txt"),
        ("'out.txt'", "'other.txt'", ""),
    ],
    ids=["one file", "f-string", "format", "a file each"],
)
def test_pages_that_write_the_same_file_run_again_alone_and_say_so(
    tmp_path: Path, a: str, b: str, shared: str
) -> None:
    (tmp_path / "log").mkdir()
    pages = tmp_path / "pages"
    pages.mkdir()
    log = tmp_path / "log" / "runs"
    log.touch()
    made = [
        page(pages, OWN_FILE.format(file=file, text=f"of {name}", log=str(log)), name=name)
        for name, file in {"a": a, "b": b}.items()
    ]
    told = {}
    runs: list[Run] = []
    run_pages(
        made,
        jobs=2,
        has_failed=never,
        finished=runs.append,
        collided=lambda page, files: told.update({page.docname: files}),
    )
    assert ["of a", "of b"] == sorted(map(printed, runs))
    if shared:
        path = str(Path("data", shared))
        assert {"a": {path: ["b"]}, "b": {path: ["a"]}} == told
    assert (4 if shared else 2) == len(log.read_text().split())
    assert bool(shared) is bool(told)


MAKES = """
import pathlib, time
file = pathlib.Path("data.txt")
file.touch()
deadline = time.monotonic() + 5
while file.exists() and time.monotonic() < deadline:
    time.sleep(0.01)
print(file.exists())
file.unlink(missing_ok=True)
"""
REMOVES = """
import pathlib, time
file = pathlib.Path({file!r})
deadline = time.monotonic() + 5
while not file.exists() and time.monotonic() < deadline:
    time.sleep(0.01)
file.unlink(missing_ok=True)
"""


@pytest.mark.parametrize(
    ("removed", "told"),
    [("data.txt", {"a": {"data.txt": ["b"]}, "b": {"data.txt": ["a"]}}), ("other.txt", {})],
)
def test_file_that_one_page_makes_and_another_one_removes_is_noticed(
    tmp_path: Path, removed: str, told: dict[str, dict[str, list[str]]]
) -> None:
    found = {}
    runs: list[Run] = []
    run_pages(
        [page(tmp_path, MAKES, name="a"), page(tmp_path, REMOVES.format(file=removed), name="b")],
        jobs=2,
        has_failed=never,
        finished=runs.append,
        collided=lambda page, files: found.update({page.docname: files}),
    )
    assert told == found
    assert ["True"] == [printed(run) for run in runs if run.page.docname == "a"]
    assert [] == list(tmp_path.iterdir())


def test_file_that_pages_only_read_keeps_them_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    cell = "import time\ntime.sleep(1)\nprint(open('data.csv').read())"
    told: list[str] = []
    run_pages(
        [page(tmp_path, cell, name=name) for name in ("a", "b")],
        jobs=2,
        has_failed=never,
        finished=lambda run: None,
        collided=lambda page, files: told.append(page.docname),
    )
    assert [] == told


def test_page_that_took_longest_or_has_most_code_starts_first(tmp_path: Path) -> None:
    short, long = page(tmp_path, "1", "2", name="short"), page(tmp_path, "1\n" * 99, name="long")
    timed = [page(tmp_path, "1", name="quick"), page(tmp_path, "1", name="slow")]
    ordered = schedule.order([*timed, short, long], {"quick": 1.0, "slow": 9.0})
    assert ["long", "short", "slow", "quick"] == [each.docname for each in ordered]
