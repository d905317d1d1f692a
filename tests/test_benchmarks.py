"""The benchmarks: what a command costs is all of it, and a figure is of the case it names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# A child that outlives its parent, works for half a second of CPU and holds 100 MiB.
ORPHAN = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", '''
import time
held = bytearray(100 * 2**20)
while time.process_time() < 0.5:
    pass
'''])
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code that imports the benchmarks, away from this process and its children."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={"PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
    )


def test_a_cost_includes_what_outlives_the_command(tmp_path: Path) -> None:
    code = """
import dataclasses, json, sys
from pathlib import Path
from measure import measure
command = [sys.executable, "-c", sys.argv[1]]
print(json.dumps(dataclasses.asdict(measure(command, Path(sys.argv[2])))))
"""
    alone = json.loads(run(code, "pass", tmp_path / "alone").stdout)
    both = json.loads(run(code, ORPHAN, tmp_path / "both").stdout)
    assert alone["cpu"] < 0.4
    assert both["cpu"] > alone["cpu"] + 0.4
    assert (alone["status"], both["status"]) == (0, 0)


def test_a_pair_runs_a_program_once_without_the_recorder_and_once_with_it(tmp_path: Path) -> None:
    code = """
import sys
from recorder import pair
print([pair(sys.argv[1], number).watched.status for number in (0, 1)])
"""
    seen = tmp_path / "seen"
    program = f"""
import sys
with open({str(seen)!r}, "a") as file:
    print("workercheck.recorder.events" in sys.modules, file=file)
"""
    assert run(code, program).stdout == "[0, 0]\n"
    assert seen.read_text().split() == ["False", "True", "True", "False"]


def test_a_program_that_fails_is_no_figure() -> None:
    done = run("import recorder; recorder.pair('raise SystemExit(3)', 0)")
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr


def test_a_cost_has_the_peak_of_all_processes(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from measure import measure
command = [sys.executable, "-c", sys.argv[1] + "\\nimport time; time.sleep(2)"]
print(measure(command, Path(sys.argv[2])).memory)
"""
    done = run(code, ORPHAN.replace("0.5", "1.5"), tmp_path / "log")
    assert 100 < float(done.stdout) < 250


def test_machines_share_the_pages_that_their_figure_says(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import sites
from builders import check, shards
folder = Path(sys.argv[1])
sites.sleeping_pages(folder / "site", 2, 0)
log = folder / "log"
print(shards(folder / "site", folder, 2, 2).status)
check("two machines", log.read_text(), 3, log)
"""
    done = run(code, tmp_path)
    assert "0\n" == done.stdout, done.stderr
    assert "BuildError: two machines: 2 pages executed, not 3" in done.stderr
    assert [1, 1] == [len(list(tmp_path.glob(f"machine{n}/store/*/*.run"))) for n in (1, 2)]


@pytest.mark.parametrize(("executes", "passes"), [(2, True), (1, False)])
def test_a_build_must_execute_what_its_figure_says(
    tmp_path: Path, executes: int, passes: bool
) -> None:
    code = """
import sys
from pathlib import Path
import sites
from builders import SERIAL, Builder
folder = Path(sys.argv[1])
sites.small_pages(folder / "site", 2)
builder = Builder(SERIAL, folder / "site", folder)
builder.build(int(sys.argv[2]))
builder.build(0)
sites.change_one_page(builder.source, 1)
builder.build(1)
"""
    done = run(code, tmp_path, executes)
    assert (done.returncode == 0) == passes, done.stderr
    assert passes or "2 pages executed, not 1" in done.stderr
