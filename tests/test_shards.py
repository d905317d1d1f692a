"""Pages of one project that several machines execute, and the build that finds all of them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BROKEN, PASSES, ROOT, Site, gate
from test_store import workercheck
from workercheck.fronts.commands import merge
from workercheck.report.record import Report
from workercheck.run import schedule

CONF = 'extensions = ["myst_nb", "workercheck"]\n'


@pytest.fixture
def project(site: Site) -> Site:
    """A project of three pages and one without code, and a module that one of them imports."""
    site.conf(CONF)
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n")
    site.write("one", "import helper\nprint(helper.value)")
    (site.source / "helper.py").write_text("value = 1\n")
    site.write("two", "print(6 * 7)")
    site.write("three", "print(6 * 8)")
    return site


def copy(site: Site, root: Path) -> Site:
    """Check the project out on another machine."""
    other = Site(root)
    shutil.copytree(site.source, other.source, dirs_exist_ok=True)
    return other


def execute(site: Site, *options: str) -> subprocess.CompletedProcess[str]:
    return workercheck(
        "execute", "source", "--store", "store", "--report", "report.json", *options, cwd=site.root
    )


def report_of(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site.root / "report.json").read_text())
    return found


def statuses(site: Site, shards: int) -> list[int]:
    """Run each shard in a copy at a path of its own; return their exit statuses."""
    return [
        execute(
            copy(site, site.root / f"machine-{n}" / ("x" * n)), "--shard", f"{n}/{shards}"
        ).returncode
        for n in range(1, shards + 1)
    ]


def merged(site: Site, *left_out: int) -> subprocess.CompletedProcess[str]:
    found = sorted(site.root.glob("machine-*/*/report.json"))
    names = [
        str(path.relative_to(site.root)) for n, path in enumerate(found, 1) if n not in left_out
    ]
    target = "merged/workercheck/report.json"
    return workercheck("report", *names, "--report", target, cwd=site.root)


def commands(job: str) -> list[list[str]]:
    """Return the commands of this project in a job of the recipe."""
    page = (ROOT / "docs" / "source" / "checking" / "machines.md").read_text()
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    steps = yaml.safe_load(recipe)["jobs"][job]["steps"]
    words = [step["run"].split() for step in steps if "run" in step]
    found = [command for command in words if command[0] != "pip"]
    assert found
    return found


def test_build_after_four_shards_at_other_paths_executes_nothing(
    project: Site, tmp_path: Path
) -> None:
    """The commands of the recipe, each job in a checkout of its own."""

    def checkout(name: str) -> Path:
        shutil.copytree(project.source, tmp_path / name / "docs")
        return tmp_path / name

    def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        module = {"sphinx-build": "sphinx"}.get(command[0], command[0])
        done = subprocess.run(
            [sys.executable, "-m", module, *command[1:]],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        return done

    (command,) = commands("pages")
    shards = [checkout(f"machine-{number}/{'x' * number}") for number in range(1, 5)]
    # The fourth has none of three pages.
    for number, cwd in enumerate(shards, start=1):
        words = " ".join(command).replace("${{ matrix.shard }}", str(number))
        run(words.split(), cwd)
    judged = gate(moved_to_be_judged(shards[0] / "reports" / "1.json", tmp_path / "part"))
    assert (2, True) == (judged.returncode, "of shard 1/4 only" in judged.stderr)

    fifth = checkout("fifth")
    for cwd, folder in itertools.product(shards, ("store", "reports")):
        if (cwd / folder).exists():  # a shard without pages keeps nothing
            shutil.copytree(cwd / folder, fifth / folder, dirs_exist_ok=True)
    logs = [run(command, fifth).stdout for command in commands("docs")]
    assert not any("executing" in log for log in logs)
    assert "3 from the cache" in logs[1]
    report = json.loads((fifth / "html" / "workercheck" / "report.json").read_text())
    assert [True] * 3 == [page["cached"] for page in report["pages"]]


def moved_to_be_judged(report: Path, folder: Path) -> Path:
    """Put a report where the gate reads that of a build."""
    (folder / "workercheck").mkdir(parents=True)
    shutil.copy(report, folder / "workercheck" / "report.json")
    return folder


def test_red_page_in_one_shard_is_red_when_merged_and_a_missing_shard_is_named(
    site: Site,
) -> None:
    project = site
    project.write("green", PASSES)
    project.write("red", BROKEN)
    assert [0, 1] == statuses(project, 2)
    done = merged(project)
    assert 1 == done.returncode, done.stderr
    assert "[unpickle-task]" in done.stdout
    assert 1 == gate(project.root / "merged").returncode
    shutil.rmtree(project.root / "merged")
    done = merged(project, 2)
    missing = "workercheck: no verdict: the report of shard 2/2 is missing.\n"
    assert (2, missing) == (done.returncode, done.stderr)
    assert not (project.root / "merged").exists()


def test_execute_finds_what_a_build_finds(site: Site) -> None:
    site.write("green", PASSES)
    site.write("red", BROKEN)
    site.write("off", text="---\nmystnb: {execution_mode: 'off'}\n---\n\nNo code.\n")
    done = execute(site, "--jobs", "2", "--format", "github")
    build = site.build()
    assert (build.status, done.returncode) == (1, 1), done.stderr
    assert all(line.startswith("::") for line in done.stdout.splitlines())
    told = [
        {
            page["docname"]: (
                page["source"],
                page["executed"],
                # A process has another number in each run.
                [finding | {"process": None} for finding in page["findings"]],
            )
            for page in report["pages"]
        }
        for report in (report_of(site), build.report)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("conf", "options", "why"),
    [
        ("extensions = ['myst_nb']\n", (), "workercheck is not in the extensions"),
        ("1 / 0\n", (), "ZeroDivisionError"),
        (CONF + "workercheck_jobs = 'two'\n", (), "workercheck_jobs in conf.py is 'two'; it must"),
        (CONF, ("--shard", "5/4"), "'5/4' is no shard; write the second of four as 2/4"),
        (CONF, (), "no page was executed, so nothing was checked"),
    ],
)
def test_what_cannot_be_executed_is_told(
    site: Site, conf: str, options: tuple[str, ...], why: str
) -> None:
    site.conf(conf)
    site.write("index", text="# No code\n")
    done = execute(site, *options)
    assert 2 == done.returncode
    assert why in done.stderr
    assert 'Traceback (most recent call last):\n  File "<frozen' not in done.stderr


def test_shards_take_about_the_same_time_and_are_always_the_same() -> None:
    seconds = {"long": 9.0, "a": 3.0, "b": 3.0, "c": 3.0, "gone": 100.0}
    names = ["a", "b", "c", "long"]
    assert [{"long"}, {"a", "b", "c"}] == schedule.divide(names, 2, seconds)
    assert schedule.divide(names, 3, {}) == schedule.divide(reversed(names), 3, {})
    assert [1, 1, 2] == sorted(map(len, schedule.divide(names, 3, {})))
    assert [1, 1, 2] == sorted(map(len, schedule.divide(names, 3, dict.fromkeys(names, 0.0))))
    # A new page counts as an average one.
    assert {"long"} in schedule.divide([*names, "new"], 2, seconds | {"long": 14.0})


def shard(number: int, of: int, docnames: list[str], pages: list[str], key: str = "k") -> str:
    data = json.loads(Report({"key": key}, [], {}).to_json())
    page = {"source": "", "executed": True, "findings": [], "verdict": "pass"}
    data["pages"] = [page | {"docname": name} for name in pages]
    data["shard"] = {"number": number, "of": of, "docnames": docnames}
    return json.dumps(data)


WRONG = {
    "b: the shard ran in another environment than a.": shard(2, 2, ["p", "q"], ["q"], "another"),
    "b: the report is of shard 1/2, and so is a.": shard(1, 2, ["p", "q"], ["q"]),
    "b: the report is of shard 2/3, but a is of shard 1/2.": shard(2, 3, ["p", "q"], ["q"]),
    "b: the project had other pages than in a.": shard(2, 2, ["p"], []),
    "q: the page is in no shard. Begin all": shard(2, 2, ["p", "q"], []),
    "p: the page is in 2 shards. Begin all": shard(2, 2, ["p", "q"], ["p", "q"]),
    "b: the file is no report of workercheck execute --shard": Report(
        {"key": "k"}, [], {}
    ).to_json(),
    "b: the report is truncated": "{",
    "b: the report is damaged": shard(3, 2, ["p", "q"], ["q"]),
}


@pytest.mark.parametrize("why", WRONG)
def test_reports_that_do_not_make_a_whole_are_named(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text(shard(1, 2, ["p", "q"], ["p"]))
    Path("b").write_text(WRONG[why])
    assert 2 == merge.main(["a", "b"])
    assert f"workercheck: no verdict: {why}" in capsys.readouterr().err
    Path("b").write_text(shard(2, 2, ["p", "q"], ["q"]))
    assert 0 == merge.main(["a", "b"])
