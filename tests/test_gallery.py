"""sphinx-gallery under `workercheck run`: the example that lost work is named, with its line."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_command import Watched, watch
from test_hosts import FUNCTIONS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

CONF = """
extensions = ["sphinx_gallery.gen_gallery"]
exclude_patterns = ["examples", "out"]
sphinx_gallery_conf = {{
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\\.py",
    "image_scrapers": (),
    "reset_modules": (),
    "parallel": {parallel},
}}
"""
HEADER = '"""\nTitle\n=====\n\nText.\n"""\n{comment}' + FUNCTIONS + "\n# %%\n# The work.\n\n"
SWALLOWED = """
try:
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        print(executor.submit(area, 1).result())
except Exception as exc:
    print(exc)
"""
COMMENT = "# sphinx_gallery_expect_worker_error = True"
EXAMPLES = {
    "lost": (
        "",
        "executor = ProcessPoolExecutor(1, mp_context=context)\n\n\n\n"
        "future = executor.submit(area, 2)\n",
    ),
    "swallowed": ("", SWALLOWED),
    "unseen": ("", "\n\n\n\nfuture = get_reusable_executor(max_workers=1).submit(slow, 1)\n"),
    "healthy": ("", "print(list(get_reusable_executor(max_workers=2).map(area, range(3))))\n"),
    "expects": (COMMENT, SWALLOWED),
    "mended": (COMMENT, "\n\n\n\nget_reusable_executor(max_workers=2).submit(area, 1).result()\n"),
}


def build(folder: Path, parallel: object) -> Watched:
    examples = folder / "examples"
    examples.mkdir()
    (folder / "conf.py").write_text(CONF.format(parallel=parallel))
    (folder / "index.rst").write_text(".. toctree::\n\n   gallery/index\n")
    (examples / "GALLERY_HEADER.rst").write_text("Gallery\n=======\n")
    for name, (comment, code) in EXAMPLES.items():
        (examples / f"plot_{name}.py").write_text(HEADER.format(comment=comment) + code)
    program = Path(sys.executable).with_name("sphinx-build")
    return watch(folder, "report", str(program), "-q", ".", "out")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    def run(parallel: object) -> Watched:
        return build(tmp_path_factory.mktemp("gallery"), parallel)

    with ThreadPoolExecutor(2) as executor:
        return dict(zip(("serial", "parallel"), executor.map(run, (False, 2)), strict=True))


@pytest.mark.parametrize("how", ["serial", "parallel"])
def test_example_and_line_are_named(runs: dict[str, Watched], how: str) -> None:
    run = runs[how]
    found = {
        page["source"]: {(f["line"], f["expected"]) for f in page["findings"]}
        for page in run.report["pages"]
    }
    assert {
        "examples/plot_lost.py": {(28, False)},
        "examples/plot_swallowed.py": {(27, False)},
        "examples/plot_unseen.py": {(28, False)},
        "examples/plot_healthy.py": set(),
        "examples/plot_expects.py": {(27, True)},
        "examples/plot_mended.py": {(28, False)},
    } == found, run.err
    assert 1 == run.status


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        # The executor's thread pickles the function before or after the example's module is gone.
        ("lost", {"pickle-task", "unpickle-task"}),
        ("swallowed", {"unpickle-task"}),
        ("unseen", {"unseen-failure"}),
        ("expects", {"unpickle-task"}),
        ("mended", {"expected-but-absent"}),
    ],
)
def test_kind_is_told(runs: dict[str, Watched], name: str, kinds: set[str]) -> None:
    (page,) = [p for p in runs["serial"].report["pages"] if p["source"].endswith(f"_{name}.py")]
    (finding,) = page["findings"]
    assert finding["kind"] in kinds
