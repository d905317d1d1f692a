"""Test of .readthedocs.yaml: its commands, run as Read the Docs runs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent

# The page that starts most programs of other packages; `make docs` has executed all of them.
EXECUTED = ("tutorial/tutorial.clusters",)


def commands(configuration):
    """Return the shell commands of a configuration, in the order Read the Docs runs them."""
    jobs = configuration["build"]["jobs"]
    return [*jobs["install"], *jobs["build"]["html"]]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_read_the_docs_publishes_the_site_and_its_report(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    checkout = tmp_path / "checkouts" / "latest"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    output = checkout / "_readthedocs"
    source = checkout / "docs" / "source"
    names = (page.relative_to(source).with_suffix("") for page in source.rglob("*.md"))
    others = sorted(name.as_posix() for name in names if name.as_posix() not in EXECUTED)
    with (source / "conf.py").open("a") as conf:
        conf.write(f"\nnb_execution_excludepatterns = {[f'**/{name}.md' for name in others]}\n")
        conf.write(f"workercheck_allow_unexecuted = {others}\n")
        # Nobody has asked their kernels for the language.
        conf.write('suppress_warnings = ["myst-nb.lexer"]\n')

    venv = tmp_path / "envs" / "latest"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    # Not this one, which has no pip to begin with where it was provided.
    python.write_text(
        f'#!/bin/sh\nexec {shutil.which("python3", path=os.defpath) or sys.executable} "$@"\n'
    )
    python.chmod(0o755)

    # The build starts from a clean environment: only what a network and a home need stays.
    kept = {
        name: value
        for name, value in os.environ.items()
        if "CERT" in name or "PROXY" in name.upper() or name in {"HOME", "XDG_CACHE_HOME", "TMPDIR"}
    }
    environment = kept | {
        "PATH": os.pathsep.join([str(venv / "bin"), f"{sys.base_prefix}/bin", os.defpath]),
        "READTHEDOCS": "True",
        "READTHEDOCS_CANONICAL_URL": "https://docs.example/en/latest/",
        "READTHEDOCS_GIT_IDENTIFIER": "main",
        "READTHEDOCS_LANGUAGE": "en",
        "READTHEDOCS_OUTPUT": str(output),
        "READTHEDOCS_PROJECT": "docs",
        "READTHEDOCS_VERSION": "latest",
        "READTHEDOCS_VERSION_NAME": "latest",
        "READTHEDOCS_VERSION_TYPE": "branch",
        "READTHEDOCS_VIRTUALENV_PATH": str(venv),
    }
    for command in commands(yaml.safe_load((checkout / ".readthedocs.yaml").read_text())):
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    site = output / "html"
    assert (site / "index.html").is_file()
    report = json.loads((site / "workercheck" / "report.json").read_text())
    assert report["verdict"] == "pass"
    assert report["environment"]["python"].startswith("3.14")
    executed = [page["docname"] for page in report["pages"] if page["executed"]]
    assert executed == list(EXECUTED)
    assert not any(page["cached"] for page in report["pages"])
