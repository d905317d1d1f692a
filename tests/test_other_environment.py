"""A kernel in an environment of its own, with the recorder there and without."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import environments
import pytest
from conftest import BROKEN, HEADER, ROOT, Site

PAGE = HEADER.replace("python3", "other") + f"# Page\n\n```{{code-cell}}\n{BROKEN.strip()}\n```\n"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that can be a kernel, and a folder that names it so."""
    folder = tmp_path_factory.mktemp("other")
    environments.empty(folder / "env", sys.executable)
    environments.install(folder / "env", "ipykernel")
    spec = folder / "jupyter" / "kernels" / "other" / "kernel.json"
    spec.parent.mkdir(parents=True)
    python = str(folder / "env" / "bin" / "python")
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    return folder


def test_environment_without_the_recorder_is_named_and_with_it_all_is_seen(
    other: Path, site: Site
) -> None:
    site.write("page", text=PAGE)
    variables = {"JUPYTER_PATH": str(other / "jupyter"), "PATH": os.environ["PATH"]}
    build = site.build(env=variables)
    assert 1 == build.status
    assert [("not-watched", 0)] == build.findings("page")
    where = (other / "env").resolve()
    assert f"Install workercheck in {where} (`pip install workercheck`" in build.log

    # What the finding says: the base package, there.
    environments.install(other / "env", ROOT)
    build = site.build(env=variables)
    assert 1 == build.status
    assert "unpickle-task" in [kind for kind, _ in build.findings("page")], build.log
    assert "not-watched" not in build.log
