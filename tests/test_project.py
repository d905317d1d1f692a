"""Tests of the project's own files: locks, package, sessions."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

import bootstrap  # noqa: E402

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==\S+")


def unhashed(text):
    """Return the requirements of a lock that have no hash or no exact version."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        line
        for line in lines
        if line.strip()
        and not line.lstrip().startswith("#")
        and not (PINNED.match(line) and "--hash=sha256:" in line)
    ]


def names(lock):
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return {match["name"] for match in map(PINNED.match, text.splitlines()) if match}


def test_every_lock_is_there():
    assert [file.stem for file in LOCKS] == [
        "bootstrap",
        "browser",
        "docs",
        "jupyter-book",
        "lint",
        "live",
        "readers",
        "tests",
        "types",
    ]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_lock_is_exact_and_hashed_and_names_no_index(lock):
    text = lock.read_text()
    assert unhashed(text) == []
    for word in ("://", "--index", "--extra-index", "--find-links"):
        assert word not in text


@pytest.mark.parametrize("line", ["numpy==2.0", "numpy>=2 --hash=sha256:ab", "-r other.txt"])
def test_requirement_that_could_be_swapped_is_seen(line):
    assert unhashed(f"# a comment\n{line}\n") == [line]


@pytest.mark.parametrize("lock", ["docs", "live", "tests"])
def test_lock_holds_what_the_project_asks_for(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = [
        *project["project"]["dependencies"],
        *itertools.chain(*project["project"]["optional-dependencies"].values()),
        *(word for word in project["dependency-groups"][lock] if isinstance(word, str)),
        *project["build-system"]["requires"],
    ]
    wanted = {re.match(r"[\w-]+", requirement)[0] for requirement in direct}
    wanted.remove("workercheck")  # an extra that another one includes
    assert wanted - names(lock) == set()


def test_docs_have_no_uvloop():
    """Where it is installed, importing adaptive sets the event-loop policy."""
    assert "uvloop" not in names("docs")


def test_sessions_are_listed_at_once_with_what_they_do():
    if not bootstrap.ready():
        pytest.skip("nox runs from elsewhere, not from .tools")
    run = subprocess.run(
        [bootstrap.tool("nox"), "--list", "--noxfile", str(ROOT / "noxfile.py")],
        capture_output=True,
        text=True,
        check=True,
        # A list that provided an interpreter or an environment would take longer.
        timeout=20,
    )
    listed = dict(re.findall(r"^[*-] (\S+) -> (.+\.)$", run.stdout, re.MULTILINE))
    tested = {f"tests-3.{minor}" for minor in range(11, 16)}
    assert set(listed) == tested | {
        "browser",
        "docs",
        "docs-live",
        "bench",
        "bench-recorder",
        "linkcheck",
        "readers",
        "tests",
        "tests-fast",
        "tests-prereleases",
        "dist",
        "lint",
        "types",
        "lock",
    }
    texts = [(ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")]
    named = re.findall(r"nox -s ([\w. -]+?)(?: --|[`\n:,])", " ".join(texts))
    assert named and {word for words in named for word in words.split()} <= set(listed)


def test_no_file_names_a_registry_or_this_machine():
    """A clone must work with whatever index and mirror its machine has."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    # In two halves, so as not to find themselves.
    forbidden = ["pypi" + ".org", "python" + "hosted", "deb.debian" + ".org", str(ROOT) + "/"]
    found = [
        f"{name}: {word}"
        for name in tracked.stdout.split("\0")
        if (ROOT / name).is_file()
        for word in forbidden
        if word in (ROOT / name).read_bytes().decode(errors="ignore")
    ]
    assert found == []
