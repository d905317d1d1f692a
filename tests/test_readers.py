"""Pages run as readers run them: real kernels, real terminals, and pages that prove it can fail."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, Site
from test_programs import CONF

sys.path.append(str(ROOT / "tools"))

import readers_table
from readers import __main__ as readers
from readers import record, terminal

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
HEADER = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n{}---\n\n# {}\n\n"
CELL = "```{{code-cell}}\n{}\n```\n\n"

ONLY_SPAWN = """\
readers:
- start-method: [fork, forkserver]
  reason: The page is about spawn.
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("readers"))
    site.conf(CONF)
    for name, header, *cells in (
        (
            "good",
            "",
            "import asyncio, sys",
            "await asyncio.sleep(0, 'value')",
            "sys.stdout.isatty()",
        ),
        ("bad", "", "x = 1", "x / 0", "print('never')"),
        (
            "spawn",
            ONLY_SPAWN,
            "import multiprocessing as m\nassert m.get_start_method() == 'spawn'",
        ),
        ("stale", ONLY_SPAWN, "print('works everywhere')"),
        (
            "hangs",
            "",
            "import subprocess, sys, time\n"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(999)'],"
            " start_new_session=True)",
            "time.sleep(999)",
        ),
        (
            "interrupted",
            "",
            "import os, signal, time\n"
            "try:\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    time.sleep(5)\n"
            "except KeyboardInterrupt:\n"
            "    pass\n"
            "else:\n"
            "    raise RuntimeError('nobody heard Ctrl-C')",
        ),
    ):
        text = HEADER.format(header, name) + "".join(CELL.format(cell) for cell in cells)
        site.write(name, text=text)
    site.write(
        "index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n\n```{readers-table}\n```\n"
    )
    return site


def command(site: Site, *arguments: str) -> list[str]:
    place = ("--source", str(site.source), "--data", str(site.root / "readers.json"))
    return [*place, "--environment", f"{PYTHON}={sys.prefix}", *arguments]


def nox(site: Site, *arguments: str) -> int:
    """Run what `nox -s readers` runs, with the tests' own environment as the reader's."""
    return readers.main(command(site, *arguments))


@contextlib.contextmanager
def in_background(site: Site, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run it as a shell does that was told to with ``&``: the signal of Ctrl-C is ignored."""
    with subprocess.Popen(
        [
            *("sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable),
            *("-m", "readers", *command(site, *arguments)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def sleeping() -> list[int]:
    """Return the processes that the page `hangs` has started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "import time; time.sleep(999)" in process.cmdline():
                found.append(process.pid)
    return found


def entries(site: Site) -> dict[tuple[str, str, str], dict[str, Any]]:
    data = json.loads((site.root / "readers.json").read_text())
    return {(run["page"], run["form"], run["start_method"]): run for run in data["runs"]}


def test_what_came_of_each_page_is_noted(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Also proves that a page can fail, in both forms, and that the start method is the one."""
    assert 1 == nox(site, "--start-method", "spawn", "good", "bad", "spawn")
    found = entries(site)
    outcomes = {key[:2]: run["outcome"] for key, run in found.items()}
    assert {
        ("good", "notebook"): "ok",
        ("good", "script"): "ok",
        ("bad", "notebook"): "failed",
        ("bad", "script"): "failed",
        ("spawn", "notebook"): "ok",
        ("spawn", "script"): "ok",
    } == outcomes
    for form in readers.FORMS:
        assert "ZeroDivisionError: division by zero" == found["bad", form, "spawn"]["error"]
    assert "2 failed, 4 ok" in capsys.readouterr().out


def test_run_of_one_page_changes_its_own_entries_only(site: Site) -> None:
    assert 0 == nox(site, "--start-method", "spawn", "--form", "script", "good")
    before = entries(site)
    assert 0 == nox(site, "--start-method", "fork", "--form", "script", "spawn")
    after = entries(site)
    assert "explained" == after["spawn", "script", "fork"]["outcome"]
    assert "The page is about spawn." == after["spawn", "script", "fork"]["error"]
    assert before == {key: run for key, run in after.items() if key in before}
    assert len(before) + 1 == len(after)


def test_two_at_once_keep_what_the_other_has_noted(tmp_path: Path) -> None:
    def entry(page: str) -> record.Entry:
        task = record.Task(page, "", "script", "3.14", "fork")
        return record.Entry(task, "ok", 1.0, "", "2026-11-22", "abc", "env")

    file = tmp_path / "readers.json"
    first, second = record.Record.read(file), record.Record.read(file)
    first.there = second.there = {("a", ""), ("b", "")}
    first.add(entry("gone"), {})
    first.add(entry("a"), {})
    second.add(entry("b"), {})
    assert ["a", "b"] == [task.page for task in record.Record.read(file).entries]


def test_explanation_of_what_works_is_turned_down(site: Site) -> None:
    assert 1 == nox(site, "--start-method", "fork", "--form", "script", "stale")
    assert "works-after-all" == entries(site)["stale", "script", "fork"]["outcome"]


def test_resume_leaves_out_what_is_good_and_unchanged(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--resume", "--start-method", "spawn", "--form", "script", "good")
    nox(site, *options)
    capsys.readouterr()
    assert 0 == nox(site, *options)
    assert "nothing to do" in capsys.readouterr().out
    page = site.source / "good.md"
    text = page.read_text()
    page.write_text(text.replace("# good", "# good\n\nMore prose."))
    assert 0 == nox(site, *options)
    assert "nothing to do" in capsys.readouterr().out
    page.write_text(text.replace("'value'", "'another'"))
    assert 0 == nox(site, *options)
    assert "1 ok" in capsys.readouterr().out
    page.write_text(text)


@pytest.mark.parametrize("form", readers.FORMS)
def test_page_that_hangs_is_ended_with_all_that_it_started(site: Site, form: str) -> None:
    assert 1 == nox(site, "--form", form, "--start-method", "fork", "--timeout", "12", "hangs")
    run = entries(site)["hangs", form, "fork"]
    assert "timeout" == run["outcome"]
    assert run["error"].startswith("not done after 12 s")
    assert [] == sleeping()


@pytest.mark.parametrize("form", readers.FORMS)
def test_page_hears_ctrl_c_though_the_run_does_not(site: Site, form: str) -> None:
    options = ("--form", form, "--start-method", "fork", "interrupted")
    with in_background(site, *options) as process:
        output, _ = process.communicate(timeout=120)
    assert 0 == process.returncode, output


def test_sigterm_ends_the_run_and_its_pages(site: Site) -> None:
    options = ("--form", "script", "--start-method", "fork", "hangs")
    with in_background(site, *options) as process:
        deadline = time.monotonic() + 60
        while not sleeping():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert 130 == process.returncode
    assert "go on with --resume" in output
    assert [] == sleeping()


def test_site_shows_the_table_and_what_is_older_than_its_page(site: Site) -> None:
    nox(site, "--start-method", "spawn", "good", "bad")
    options = ("-D", "nb_execution_mode=off", "-D", "workercheck_allow_unexecuted=*")
    build = site.build(*options)
    assert 0 == build.status, build.log
    text = shown(site)
    assert "2 of 2" in text
    assert "0 of 2 (" in text
    assert "ZeroDivisionError: division by zero" in text
    assert readers_table.STALE not in text
    page = site.source / "good.md"
    before = page.read_text()
    page.write_text(before.replace("'value'", "'another'"))
    site.build(*options)
    assert f"2 of 2{readers_table.STALE}" in shown(site)
    page.write_text(before)


def shown(site: Site) -> str:
    """Return the text of the page with the table."""
    html = (site.root / "html" / "index.html").read_text()
    return " ".join(re.sub(r"<[^>]*>", "", html).split())


def test_page_that_there_is_not(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == nox(site, "nothing")
    assert "no page 'nothing' with code. There are: bad, good" in capsys.readouterr().err


def test_damaged_data_is_told(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "readers.json"
    data.write_text('{"schema": 1, "runs": [')
    assert 2 == readers.main(["--source", str(site.source), "--data", str(data)])
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Traceback\n  x\nValueError: no\n", "ValueError: no"),
        ("ValueError: no\nException ignored in atexit\n  more\n", "ValueError: no"),
        ("Segmentation fault\n", "Segmentation fault"),
        ("", "no output"),
    ],
)
def test_last_error(output: str, expected: str) -> None:
    assert expected == terminal.last_error(output)


def test_terminal_is_one(tmp_path: Path) -> None:
    status, output = terminal.in_terminal(
        [sys.executable, "-c", "import sys; print(sys.stdin.isatty(), sys.stdout.isatty())"],
        tmp_path,
        {"PATH": "/usr/bin:/bin"},
        timeout=30,
        stop=threading.Event(),
    )
    assert (0, "True True\n") == (status, output)
