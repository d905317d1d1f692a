"""mystmd under `workercheck run`: the page, code cell and line whose work was lost are named."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from test_command import Watched, watch
from test_hosts import FUNCTIONS, LOST, SWALLOWED, tool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

HEADER = "---\nkernelspec:\n  name: python3\n  display_name: Python 3\n---\n\n# Page\n"
HEALTHY = """
print(list(get_reusable_executor(max_workers=1).map(area, range(3))))
with ProcessPoolExecutor(1, mp_context=context) as executor:
    print(executor.submit(abs, -1).result())
"""
PAGES = {"lost.md": LOST, "swallowed.md": SWALLOWED, "healthy.md": HEALTHY}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The server that mystmd starts refuses root, unless it is told otherwise.
    settings = tmp_path / "jupyter"
    settings.mkdir()
    (settings / "jupyter_server_config.py").write_text("c.ServerApp.allow_root = True\n")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(settings))
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def write(project: Path, pages: tuple[str, ...]) -> None:
    for name in pages:
        cells = "".join(
            f"\n```{{code-cell}} python\n{code.strip()}\n```\n" for code in (FUNCTIONS, PAGES[name])
        )
        (project / name).write_text(HEADER + cells)
    (project / "myst.yml").write_text(
        "version: 1\nproject:\n  exports:\n    - format: md\n      output: out/out.md\n"
        f"      article: {pages[0]}\n"
    )


def build(project: Path) -> Watched:
    return watch(project, "report", tool("myst"), "build", "--execute", "--md", "--ci")


@pytest.mark.parametrize("pages", [tuple(PAGES), ("healthy.md",)], ids=["faults", "healthy"])
def test_page_of_mystmd(project: Path, pages: tuple[str, ...]) -> None:
    write(project, pages)
    # mystmd says success, and leaves the server of its kernels running: no page is to blame.
    done = build(project)
    faults = {
        "lost.md": ("lost.md", "unpickle-task", 27),
        "swallowed.md": ("swallowed.md", "unpickle-task", 27),
    }
    expected = [faults[name] for name in pages if name in faults]
    assert (int(bool(expected)), expected) == (done.status, sorted(done.found)), done.err
    assert "out.md" in [path.name for path in (project / "out").iterdir()]


def test_pages_that_mystmd_does_not_execute_have_no_verdict(project: Path) -> None:
    write(project, ("lost.md",))
    assert 1 == build(project).status
    kept = build(project)
    assert 2 == kept.status, kept.err
    assert "remove the outputs that it kept from earlier runs" in kept.err
    shutil.rmtree(project / "_build")
    (project.parent / "jupyter" / "jupyter_server_config.py").write_text("raise SystemExit(1)")
    without_server = build(project)
    assert 2 == without_server.status, without_server.err
    assert "those of jupyter_server, myst, node" in without_server.err
