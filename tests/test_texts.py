"""Tools that run blocks of a page with `exec`, under `workercheck run`: page and line are named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_command import watch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

TOOL = '''
"""Runs the blocks of Python in pages, each under a name of its own, as markdown-exec does."""

import re
import sys
from pathlib import Path

def run(name, code):
    exec(compile(code, name, "exec"), {"__name__": "block"})

def main(paths):
    for path in paths:
        text = Path(path).read_text()
        for number, block in enumerate(re.findall(r"```py[^\\n]*\\n(.*?)```", text, re.DOTALL)):
            run(NAME.format(path=path, number=number, line=1), block)

NAME = "<block {number}>"
if __name__ == "__main__":
    NAME, *paths = sys.argv[1:]
    main(paths)
'''
PAGE = """\
# Page

```py
from concurrent.futures import ProcessPoolExecutor
```

```python exec="on"
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def start(executor, task):
    return executor.submit(abs, task)

with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as executor:
    print(start(executor, {task}){ask})
```
"""
LOST = 12
LOST_PAGE = PAGE.format(task='"x"', ask="")
HEALTHY_PAGE = PAGE.format(task=-1, ask=".result()")
DRIVER = "import tool\n\nif __name__ == '__main__':\n    tool.main(['page.md'])\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "tool.py").write_text(TOOL)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    return tmp_path


@pytest.mark.parametrize("name", ["<block {number}>", "<string>", "<tool {path}:{line}>"])
def test_block_of_a_page_is_found(folder: Path, name: str) -> None:
    (folder / "page.md").write_text(LOST_PAGE)
    (folder / "healthy.md").write_text(HEALTHY_PAGE)
    run = watch(folder, "lost", sys.executable, "-m", "tool", name, "healthy.md", "page.md")
    assert run.status == 1
    assert run.found == [("page.md", "unseen-failure", LOST)]


def test_healthy_blocks_pass(folder: Path) -> None:
    (folder / "page.md").write_text(HEALTHY_PAGE)
    run = watch(folder, "healthy", sys.executable, "-m", "tool", "<block {number}>", "page.md")
    assert run.status == 0
    assert run.found == []
    assert "1 file" in run.err


def test_block_is_found_where_a_script_calls_the_tool(folder: Path) -> None:
    (folder / "page.md").write_text(LOST_PAGE)
    (folder / "driver.py").write_text(DRIVER)
    run = watch(folder, "driver", sys.executable, "driver.py")
    assert run.status == 1
    assert run.found == [("page.md", "unseen-failure", LOST)]
