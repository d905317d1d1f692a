"""The steps on the page about adding a failure or a kind, followed; the page runs the others."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "source" / "checking" / "extending.md").read_text()
NEW = "many-processes"


def files() -> dict[str, str]:
    """Return the files that the page shows, by name, as it shows them at first."""
    found = re.findall(r'^file\("([^"]+)", (""".*?""")\.lstrip', PAGE, re.MULTILINE | re.DOTALL)
    return {name: ast.literal_eval(text).lstrip() for name, text in found}


def run_pytest(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "tools")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of the repository that the steps are about."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("tools/workercheck", "docs/source"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "tests").mkdir()
    for path in (ROOT / "tests").glob("*.py"):
        shutil.copy(path, tmp_path / "tests")
    return tmp_path


def test_page_of_the_corpus_that_is_added_is_run_alone(clone: Path) -> None:
    pages = files()
    (header,) = re.findall(r'page\.replace\("expect: \[\]", """(.*?)"""\)', PAGE, re.DOTALL)
    added = {name: text for name, text in pages.items() if name.startswith("tests/")}
    assert 2 == len(added)
    others = [ROOT / "tests" / "healthy" / "fork.md", ROOT / "tests" / "faults" / "cell-error.md"]
    for path in others:
        (clone / "tests" / path.parent.name).mkdir()
        shutil.copy(path, clone / "tests" / path.parent.name)
    for name, text in added.items():
        (clone / name).write_text(text)
    words = ("tests/test_corpus.py", "tests/test_lint.py", "-k", "pool-apply")
    fault = clone / "tests" / "faults" / "pool-apply-lambda.md"
    fault.write_text(fault.read_text().replace("expect: []", header))
    done = run_pytest(clone, *words)
    assert 0 == done.returncode, done.stdout
    # Each with Sphinx, and without a run.
    assert "4 passed" in done.stdout


def test_kind_that_is_added_is_asked_for_wherever_it_must_be_described(clone: Path) -> None:
    module = clone / "tools" / "workercheck" / "judge" / "finding.py"
    last = '    "expected-but-absent",\n]'
    assert last in module.read_text()
    module.write_text(module.read_text().replace(last, f'    "{NEW}",\n{last}'))
    done = run_pytest(clone, "tests/test_reference.py", "tests/test_lint.py", "-k", "kind")
    failed = set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))
    assert failed == {
        "test_every_kind_has_a_meaning",
        "test_page_of_workercheck_has_every_kind_and_setting",
        "test_page_of_findings_has_an_example_of_each_kind",
        "test_readme_has_every_kind",
    }, done.stdout
