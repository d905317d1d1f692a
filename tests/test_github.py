"""What GitHub runs: actions pinned by hash, sessions that exist, and the action itself."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import environments
import pytest
import yaml
from conftest import PASSES, ROOT

sys.path.append(str(ROOT / "tools"))

import bootstrap

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"uses: (?:\./ # zizmor: ignore.*|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$")
LOST = """
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        future = executor.submit(lambda: 1)
"""


def unpinned(text: str) -> list[str]:
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    return [line for line in lines if line.startswith("uses:") and not PINNED.match(line)]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_by_hash_with_their_version(file: Path) -> None:
    assert "uses: " in file.read_text()
    assert [] == unpinned(file.read_text())


@pytest.mark.parametrize(
    "name", ["actions/checkout@v5", "actions/checkout@08c6903 # v5.0.0", f"owner/name@{'0' * 40}"]
)
def test_action_that_could_be_swapped_is_seen(name: str) -> None:
    assert [f"uses: {name}"] == unpinned(f"    steps:\n      - uses: {name}\n")


def test_one_action_has_one_hash() -> None:
    text = "\n".join(file.read_text() for file in WORKFLOWS)
    pins = set(re.findall(r"uses: ([\w./-]+)@(.+)", text))
    assert len({name for name, _ in pins}) == len(pins)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_jobs_may_read_and_no_more_unless_they_say_so(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] in ({}, {"contents": "read"})
    writing = {
        (name, scope)
        for name, job in workflow["jobs"].items()
        for scope, access in job.get("permissions", {}).items()
        if access != "read"
    }
    assert writing == ({("publish", "id-token")} if file.stem == "release" else set())


def test_sessions_that_workflows_run_are_there() -> None:
    listed = subprocess.run(
        [bootstrap.tool("nox"), "--list", "--noxfile", ROOT / "noxfile.py"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text = "\n".join(file.read_text() for file in WORKFLOWS)
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    asked = set(re.findall(r"nox -s ([\w.-]+)", text))
    asked |= set(matrix["jobs"]["check"]["strategy"]["matrix"]["session"])
    assert asked <= set(re.findall(r"^[*-] (\S+) ->", listed, re.MULTILINE))


@pytest.mark.parametrize(
    ("urls", "status"),
    [
        (["Repository, https://example.org/owner/name"], 0),
        (["Repository, https://example.org/owner/name-of-another"], 1),
        ([], 1),
    ],
)
def test_release_without_the_address_of_its_repository_is_refused(
    tmp_path: Path, urls: list[str], status: int
) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    name = "The package names this repository"
    (step,) = [s for s in workflow["jobs"]["build"]["steps"] if s.get("name") == name]
    (tmp_path / "dist").mkdir()
    metadata = "".join(["Name: workercheck\n", *(f"Project-URL: {url}\n" for url in urls)]).encode()
    with tarfile.open(tmp_path / "dist" / "workercheck-0.1.0.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("workercheck-0.1.0/PKG-INFO")
        entry.size = len(metadata)
        archive.addfile(entry, io.BytesIO(metadata))
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={**os.environ, "REPOSITORY": "https://example.org/owner/name"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert status == done.returncode, done.stderr
    assert ("::error file=pyproject.toml::" in done.stdout) == bool(status)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine of GitHub: a `python3` with pip, on which the action has installed itself."""
    runner = tmp_path_factory.mktemp("runner")
    uv = [bootstrap.tool("uv"), "venv", "--quiet", "--seed", "--python", sys.executable]
    subprocess.run([*uv, runner / "python"], check=True)
    # As the image would have it, so that only this project is new.
    environments.install(runner / "python", "hatchling")
    done = act(runner, runner, "", steps=slice(0, 1))
    assert 0 == done.returncode, done.stderr
    return runner


def act(
    runner: Path, folder: Path, paths: str, steps: slice = slice(1, None)
) -> subprocess.CompletedProcess[str]:
    """Run steps of the action in a folder, as a runner does."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = action["runs"]["steps"][steps]
    assert "bash" == step["shell"]
    assert step.get("env", {}) in ({}, {"PATHS": "${{ inputs.paths }}"})
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={
            **kept,
            "PATH": os.pathsep.join([str(runner / "python" / "bin"), os.environ["PATH"]]),
            "RUNNER_TEMP": str(runner),
            "GITHUB_ACTION_PATH": str(ROOT),
            "PATHS": paths or action["inputs"]["paths"]["default"],
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_action_names_what_is_lost(runner: Path, tmp_path: Path) -> None:
    (tmp_path / "lost.py").write_text(LOST.lstrip())
    (tmp_path / "fine.py").write_text(PASSES)
    done = act(runner, tmp_path, "")
    assert 1 == done.returncode, done.stderr
    assert "::error file=lost.py,line=5" in done.stdout
    assert 1 == act(runner, tmp_path, "fine.py lost.py").returncode


def test_action_passes_what_is_healthy(runner: Path, tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(PASSES)
    (tmp_path / "lost.py").write_text(LOST.lstrip())
    done = act(runner, tmp_path, "fine.py")
    assert 0 == done.returncode, done.stderr + done.stdout
