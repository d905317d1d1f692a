"""How a kernel is started, and who can talk to it."""

from __future__ import annotations

import itertools
import json
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest
from runs import findings
from test_run_processes import execute, page
from workercheck.run.outputs import BoundedClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets with a name are Linux's")

SOCKETS = """
import os
folder = os.environ["WORKERCHECK_EVIDENCE"]
name = "-".join(folder.split("/")[-2:])
with open("/proc/net/unix") as file:
    words = [line.split()[-1] for line in file]
print(len([word for word in words if word.startswith(folder)]))
print(len([word for word in words if word.startswith("@" + name)]))
print(os.stat(os.path.dirname(folder)).st_mode)
"""


def sockets(folder: Path) -> list[int]:
    """Return how many sockets with a file and without one a page's kernel has, and the mode."""
    (done,) = execute(page(folder, SOCKETS))
    return [int(word) for word in done.notebook.cells[0].outputs[0].text.split()]


def test_nobody_but_the_owner_can_reach_the_sockets_of_a_kernel(tmp_path: Path) -> None:
    with_file, without, mode = sockets(tmp_path)
    assert with_file >= 5
    assert without == 0
    assert stat.S_IMODE(mode) == 0o700


def test_kernel_whose_sockets_would_have_too_long_a_path_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with_file, without, _ = sockets(tmp_path)
    assert with_file == 0
    assert without >= 5


@pytest.mark.parametrize(
    ("begins", "step", "kinds"),
    [("time.sleep(2)", 3600, []), ("time.sleep(600)", -3600, ["kernel-died"])],
    ids=["slow", "hangs"],
)
def test_clock_that_is_set_while_a_kernel_starts_neither_condemns_nor_spares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: str, step: int, kinds: list[str]
) -> None:
    folder = tmp_path / "kernels" / "late"
    folder.mkdir(parents=True)
    code = f"import time\n{begins}\nfrom ipykernel.kernelapp import main\nmain()"
    argv = [sys.executable, "-c", code, "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "late", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    late = page(tmp_path, "print(1)")
    late.notebook.metadata["kernelspec"]["name"] = "late"

    now, steps = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + step * next(steps))
    monkeypatch.setattr(BoundedClient, "startup_timeout", 10 if kinds else 60)
    started = time.monotonic()
    (run,) = execute(late)
    assert kinds == [finding.kind for finding in findings(run)]
    assert time.monotonic() - started < 50
