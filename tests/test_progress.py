"""In which order and company pages run, and what a person sees of it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from conftest import HEADER, Site
from workercheck.run import schedule
from workercheck.run.page import Cell, Page

EXCLUSIVE = HEADER.replace("---\n\n", "workercheck: {exclusive: true}\n---\n\n")


def page(docname: str, cells: int = 1) -> Page:
    return Page(
        docname=docname,
        path=Path(f"{docname}.md"),
        notebook=nbformat.v4.new_notebook(),
        cells=tuple(
            Cell(position=i, line=i + 1, tags=frozenset(), source="1") for i in range(cells)
        ),
        why_not_executed=None,
        force=False,
        in_temp=False,
        timeout=None,
        allow_errors=False,
        exclusive=False,
    )


def test_long_pages_come_first_and_those_nobody_timed_before_them() -> None:
    pages = [page("short"), page("new", 2), page("long"), page("newer", 5)]
    ordered = schedule.order(pages, {"short": 1.0, "long": 9.0})
    assert ["newer", "new", "long", "short"] == [page.docname for page in ordered]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
    ids=["none", "v2 without", "v2", "v1 without", "v1"],
)
def test_cores_are_those_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    count = "process_cpu_count" if hasattr(os, "process_cpu_count") else "sched_getaffinity"
    many = 64 if count == "process_cpu_count" else set(range(64))
    monkeypatch.setattr(os, count, lambda *_: many)
    assert (expected or 64) == schedule.cores(tmp_path)


def test_order_follows_the_last_build_in_whatever_environment_and_jobs_follow_j(
    site: Site, tmp_path: Path
) -> None:
    names = ("brief", "medium", "slow")
    for number, name in enumerate(names):
        site.write(name, f"import time\ntime.sleep({number * 1.5})")
    site.build("-D", "workercheck_jobs=1")
    info = tmp_path / "other" / "something-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: something\nVersion: 1\n")
    build = site.build("-j", "2", env={"PYTHONPATH": str(info.parent)})
    assert "workercheck: executing 3 pages, 2 at a time" in build.log
    build = site.build("-E", "-D", "workercheck_jobs=1", "-D", "nb_execution_mode=force")
    assert "workercheck: executing 3 pages, 1 at a time" in build.log
    done = re.findall(r"workercheck: \[\d/3\] (\w+) ", build.log)
    assert ["slow", "medium", "brief"] == done


# Outside the folder of the pages: those that write one file there run again alone.
STAMPS = """
import pathlib, time
with pathlib.Path("../stamps").open("a") as file:
    print({name!r}, time.time(), file=file)
    time.sleep(1.5)
    print({name!r}, time.time(), file=file, flush=True)
"""


@pytest.mark.parametrize("alone", [True, False], ids=["exclusive", "with others"])
def test_exclusive_page_runs_alone(site: Site, alone: bool) -> None:
    names = ("first", "second", "third")
    for name in names:
        path = site.write(name, STAMPS.format(name=name))
        if name == "first" and alone:
            path.write_text(path.read_text().replace(HEADER, EXCLUSIVE))
    # That all run at once is what makes this test able to fail.
    build = site.build("-W", "-n", "-D", "workercheck_jobs=3")
    assert 0 == build.status, build.log
    spans: dict[str, list[float]] = {}
    for line in (site.root / "stamps").read_text().splitlines():
        spans.setdefault(line.split()[0], []).append(float(line.split()[1]))
    begin, end = spans["first"]
    met = [name for name in names[1:] if spans[name][0] < end and begin < spans[name][1]]
    assert ([] if alone else list(names[1:])) == met
    if alone:
        assert "exclusive" not in (build.outdir / "first.html").read_text()


def test_bad_header_is_named_with_its_line_and_the_page_is_not_run(site: Site) -> None:
    headers = {
        "misspelled": "workercheck:\n  exclusiv: 1\n",
        "number": "workercheck: {exclusive: 1}\n",
        "word": "workercheck: exclusive\n",
    }
    for name, header in headers.items():
        page = site.write(name, "open('was-run', 'w').close()")
        page.write_text(page.read_text().replace("---\n\n", f"{header}---\n\n"))
    build = site.build()
    assert 1 == build.status
    assert [("not-executed", 6)] == build.findings("misspelled")
    assert [("not-executed", 5)] == build.findings("number")
    assert [("not-executed", 5)] == build.findings("word")
    for name in headers:
        assert f"source/{name}.md" in build.log
    assert (
        "has no setting 'exclusiv'. The only setting is: workercheck: {exclusive: true}"
        in build.log
    )
    assert not (site.source / "was-run").exists()


IMPATIENT = (
    "import sys, workercheck.report.progress as progress; progress.SILENCE = 2.0; "
    "from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))"
)


def test_silent_build_says_what_it_waits_for(site: Site) -> None:
    site.write("page", "import time", "time.sleep(8)")
    site.write("index", text="# Index\n\n```{toctree}\npage\n```\n")
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "-b", "html", "source", "html"],
        cwd=site.root,
        capture_output=True,
        text=True,
        check=True,
    )
    waits = re.findall(r"^workercheck: waiting for page(?::(\d+))? (\d+) s$", done.stdout, re.M)
    assert "13" in [line for line, _ in waits], done.stdout
    assert len(waits) <= 4  # twice as long each time
    assert "\r" not in done.stdout


def on_screen(written: str) -> list[str]:
    """Return the lines that a terminal shows after all that was written to it."""
    lines = []
    for raw in re.sub(r"\x1b\[[0-9;]*m", "", written).replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in raw.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def in_terminal(command: str) -> tuple[int, str]:
    """Run a command in a terminal of its own; return its status and what it wrote."""
    # Not pty.spawn: it forks, and the runner of the tests has threads.
    ours, theirs = pty.openpty()
    written = bytearray()
    with subprocess.Popen(
        ["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        with suppress(OSError):  # Linux says EIO at the end
            while data := os.read(ours, 4096):
                written.extend(data)
    os.close(ours)
    return process.returncode, written.decode()


def test_terminal_shows_one_living_line_and_leaves_nothing_of_it(site: Site) -> None:
    site.write("quick", "print(6 * 7)")
    site.write("a_page_with_quite_a_long_name", "import time", "time.sleep(6)")
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n")
    # Through a shell, to give the terminal a width and a name.
    command = (
        f"stty cols 60; cd '{site.root}'; TERM=xterm COLUMNS= "
        f"'{sys.executable}' -m sphinx -b html -j 2 source html"
    )
    started = time.monotonic()
    status, text = in_terminal(command)
    assert 0 == status, text
    live = re.findall(r"\r(\[\d/2\][^\r\n]*)", text)
    assert any(re.match(r"\[[01]/2\] .*a_page_with_quite_a_long_name:13 \d s", s) for s in live), (
        live
    )
    assert len(live) <= time.monotonic() - started + 2
    assert max(map(len, live)) < 60
    shown = on_screen(text)
    assert [] == [line for line in shown if line.startswith("[")]
    finished = [line for line in shown if line.startswith("workercheck: [")]
    assert 2 == len(finished)
    assert all(line.endswith("ok") for line in finished)
