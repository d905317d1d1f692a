"""Pages without measure: each ends in bounded time and memory, with a finding of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left as Linux tells it"),
]

HELPERS = """
import sys

def receive(connection, count):
    for _ in range(count):
        try:
            connection.recv()
        except AttributeError:
            pass

def complain():
    while True:
        sys.stderr.write(1000 * "!")
"""
PAGES = {
    "dropped": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(1) as executor:
            for _ in range(200_000):
                executor.submit(int, "no number")
        """,
    "loads": """
        import multiprocessing
        from helpers import receive
        def area(x):
            return x * x
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=receive, args=(theirs, 5000))
        process.start()
        for _ in range(5000):
            ours.send(area)
        process.join()
        print(process.exitcode)
        """,
    "children": """
        import subprocess
        for _ in range(150):
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
        """,
    "stopped": """
        import os, signal
        os.kill(os.getpid(), signal.SIGSTOP)
        """,
    "complains": """
        import multiprocessing
        from helpers import complain
        process = multiprocessing.get_context("spawn").Process(target=complain)
        process.start()
        process.join()
        """,
    "prints": """
        for _ in range(200):
            print(1_000_000 * "!")
        """,
}
LIMIT = 12
"""Seconds that a cell may take, of a page that has no end of its own."""

BUILD = """
import resource, sys
from sphinx.cmd.build import main
status = main(["-b", "html", "source", "html"])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """Return what is reported of each page, and the most memory that the build had, in KiB."""
    site = Site(tmp_path_factory.mktemp("bounded"))
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\nworkercheck_jobs = 3\n'
        f"nb_execution_timeout = {LIMIT}\n"
    )
    (site.source / "helpers.py").write_text(HELPERS)
    for name, cell in PAGES.items():
        site.write(name, textwrap.dedent(cell))
    # The limit is that of what has no end; of the others, it is what a busy machine needs.
    for name in PAGES.keys() - {"stopped", "complains"}:
        path = site.source / f"{name}.md"
        header = "mystnb:\n  execution_timeout: 200\nkernelspec:"
        path.write_text(path.read_text().replace("kernelspec:", header, 1))
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n")
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=site.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 1 == done.returncode, done.stdout + done.stderr
    report = json.loads((site.root / "html/workercheck/report.json").read_text())
    peak = re.search(r"^peak (\d+)$", done.stderr, re.MULTILINE)
    assert peak is not None, done.stderr
    left = [
        process.pid
        for process in psutil.process_iter(["cwd"])
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(site.root)
    ]
    assert [] == left
    return {page["docname"]: page for page in report["pages"]}, int(peak[1])


@pytest.mark.parametrize(
    ("name", "kinds", "said"),
    [
        ("dropped", ["unseen-failure"], "200000 times"),
        ("loads", ["unpickle-task"], "__main__.area"),
        ("children", ["leftover-process"], "150 processes"),
        ("stopped", ["cell-timeout"], ""),
        ("complains", ["cell-timeout"], ""),
    ],
)
@pytest.mark.timeout(600)
def test_page_without_measure_is_one_finding(
    built: tuple[dict[str, Any], int], name: str, kinds: list[str], said: str
) -> None:
    page = built[0][name]
    assert kinds == [finding["kind"] for finding in page["findings"]], page["findings"]
    assert said in page["findings"][0]["message"]
    assert page["seconds"] < 120


@pytest.mark.timeout(600)
def test_build_takes_little_memory_for_much_output(built: tuple[dict[str, Any], int]) -> None:
    pages, peak = built
    assert [] == pages["prints"]["findings"]
    assert peak < 1 << 20
