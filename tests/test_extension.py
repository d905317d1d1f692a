"""What a site that only adds ``workercheck`` to its extensions gets from ``sphinx-build``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BROKEN, HEADER, PASSES, Site, gate


def test_clean_site_passes(site: Site) -> None:
    site.write("good", PASSES)
    build = site.build("-W", "--keep-going", "-n")
    assert 0 == build.status, build.log
    assert "pass" == build.report["verdict"]
    assert 0 == gate(build.outdir).returncode


def test_swallowed_failure_fails_the_build_with_place_object_and_way_out(site: Site) -> None:
    site.write("broken", BROKEN)
    site.write("later", PASSES)
    build = site.build()
    assert 1 == build.status
    assert "build finished with problems" in build.log
    assert (
        "source/broken.md:9: a worker could not unpickle __main__.area (AttributeError: "
        in build.log
    )
    assert "sent through concurrent.futures.ProcessPoolExecutor under forkserver" in build.log
    assert "Move area into a module" in build.log
    assert build.page("later")["executed"]
    assert 1 == gate(build.outdir).returncode


def test_stock_myst_nb_says_nothing_about_the_same_page(site: Site) -> None:
    site.conf('extensions = ["myst_nb"]\n')
    site.write("broken", BROKEN)
    build = site.build("-W", "--keep-going", "-n")
    assert 0 == build.status, build.log
    assert "build succeeded" in build.log


def test_parallel_read_gives_the_same_report(site: Site) -> None:
    site.write("broken", BROKEN)
    site.write("plain", text="# Plain\n\n```{code-cell}\n1 + 1\n```\n")
    for number in range(6):
        site.write(f"page{number}", PASSES)

    def verdicts(*options: str) -> list[tuple[str, str, list[tuple[str, int]]]]:
        build = site.build("-E", *options)
        return [
            (page["docname"], page["verdict"], build.findings(page["docname"]))
            for page in build.report["pages"]
        ]

    serial = verdicts()
    assert 8 == len(serial)
    assert serial == verdicts("-j", "4")


def test_second_build_executes_nothing_that_passed(site: Site) -> None:
    site.write("good", PASSES)
    site.build()
    build = site.build("-E")
    assert (True, True) == (build.page("good")["executed"], build.page("good")["cached"])
    assert "executing" not in build.log


def test_red_page_stays_red_until_it_is_mended(site: Site) -> None:
    site.write("broken", BROKEN)
    site.write("good", PASSES)
    for _ in range(2):
        build = site.build()
        assert 1 == build.status
        assert [("unpickle-task", 9)] == build.findings("broken")
        assert not build.page("broken")["cached"]
    site.write("broken", PASSES)
    build = site.build()
    assert 0 == build.status, build.log
    (site.source / "broken.md").unlink()
    build = site.build()
    assert ["good"] == [page["docname"] for page in build.report["pages"]]


def test_notebooks_that_myst_nb_writes_into_the_source_folder_are_no_pages(site: Site) -> None:
    site.conf('extensions = ["myst_nb", "workercheck"]\nexclude_patterns = ["html"]\n')
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\n*\n```\n")
    page = site.write("broken", BROKEN)
    site.write("good", PASSES)

    def build() -> tuple[int, list[str]]:
        command = [sys.executable, "-m", "sphinx", "-q", ".", "html"]
        done = subprocess.run(command, cwd=site.source, capture_output=True, check=False)
        told = json.loads((site.source / "html" / "workercheck" / "report.json").read_text())
        return done.returncode, [found["docname"] for found in told["pages"]]

    assert (1, ["broken", "good"]) == build()
    assert (site.source / "jupyter_execute" / "broken.ipynb").exists()
    assert (1, ["broken", "good"]) == build()
    page.unlink()
    assert (0, ["good"]) == build()


def test_lines_follow_the_text_without_a_new_run(site: Site) -> None:
    page = site.write("expected", BROKEN, tags="expect-worker-error")
    site.build()
    page.write_text(page.read_text().replace("# expected\n", "# expected\n\nA new sentence.\n"))
    build = site.build()
    assert [("unpickle-task", 11)] == build.findings("expected")
    assert build.page("expected")["cached"]
    assert 0 == build.status


def test_changed_local_module_is_executed_again(site: Site) -> None:
    helper = site.source / "helper_of_the_page.py"
    helper.write_text("value = 1\n")
    site.write("page", "import helper_of_the_page\nprint(helper_of_the_page.value)")
    site.build()
    assert site.build("-E").page("page")["cached"]
    helper.write_text("value = 2\n")
    build = site.build("-E")
    assert not build.page("page")["cached"]
    assert ">2\n" in (build.outdir / "page.html").read_text()


READS = """
def fill_in(app, docname, source):
    assert app.env.docname == docname
    source[0] = source[0].replace("@factor@", "7")

def setup(app):
    app.connect("source-read", fill_in)
"""


def test_what_conf_py_makes_of_a_page_is_what_runs(site: Site) -> None:
    site.conf('extensions = ["myst_nb", "workercheck"]\n' + READS)
    site.write("page", "print(6 * @factor@)")
    site.write("broken", "factor = @factor@", BROKEN)
    build = site.build()
    assert ([], [("unpickle-task", 13)]) == (build.findings("page"), build.findings("broken"))
    assert ">42\n" in (build.outdir / "page.html").read_text()


def test_handler_that_raises_ends_the_build_as_it_does_without_the_check(site: Site) -> None:
    site.conf('extensions = ["myst_nb", "workercheck"]\n' + READS.replace("app.env", "app.no"))
    site.write("page", PASSES)
    build = site.build()
    assert 2 == build.status
    assert "Handler <function fill_in" in build.log


def test_page_shows_the_readers_own_traceback(site: Site) -> None:
    cell = BROKEN.replace("future = executor.submit(area, 2)", "executor.submit(area, 2).result()")
    site.write("expected", cell, tags="expect-worker-error")
    html = (site.build().outdir / "expected.html").read_text()
    assert "BrokenProcessPool" in html
    assert "site-packages/workercheck" not in html
    assert "_recorder" not in html


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "```{code-cell}\n1 + 1\n```\n"),
        (HEADER, "- a list\n\n  ```{code-cell}\n  1 + 1\n  ```\n"),
        (HEADER, "````{note}\n```{code-cell}\n1 + 1\n```\n````\n"),
    ],
    ids=["no header", "in a list", "in a directive"],
)
def test_code_cell_that_nobody_executes_is_found(site: Site, header: str, code: str) -> None:
    text = f"{header}# Page\n\n{code}"
    site.write("page", text=text)
    line = 1 + text[: text.index("```{code-cell}")].count("\n")
    build = site.build()
    assert 1 == build.status
    assert [("not-executed", line)] == build.findings("page")


def test_page_that_stays_unexecuted_on_purpose_is_listed(site: Site) -> None:
    site.conf('extensions = ["myst_nb", "workercheck"]\nworkercheck_allow_unexecuted = ["old"]\n')
    off = HEADER.replace("---\n\n", "mystnb:\n  execution_mode: 'off'\n---\n\n")
    site.write("off", text=off + "# Off\n\n```{code-cell}\n1\n```\n")
    site.write("old", text="# Old\n\n```{code-cell}\n1\n```\n")
    site.write("good", PASSES)
    build = site.build()
    assert (0, False) == (build.status, build.page("off")["executed"]), build.log
    assert "source/off.md: not executed, as its header says (execution_mode is 'off')" in build.log
    assert "source/old.md: not executed, as workercheck_allow_unexecuted in conf.py" in build.log


def test_kernel_without_the_recorder_is_not_watched(site: Site, tmp_path: Path) -> None:
    kernel = tmp_path / "jupyter" / "kernels" / "deaf"
    kernel.mkdir(parents=True)
    # A kernel that takes the variable away, as a kernel in another environment would not know it.
    argv = ["env", "-u", "WORKERCHECK_EVIDENCE", sys.executable, "-m", "ipykernel_launcher", "-f"]
    spec = {
        "argv": [*argv, "{connection_file}"],
        "display_name": "deaf",
        "language": "python",
    }
    (kernel / "kernel.json").write_text(json.dumps(spec))
    site.write(
        "page", text=HEADER.replace("python3", "deaf") + "# Page\n\n```{code-cell}\n1\n```\n"
    )
    build = site.build(env={"JUPYTER_PATH": str(tmp_path / "jupyter")})
    assert 1 == build.status
    assert [("not-watched", 0)] == build.findings("page")


def test_kernel_that_does_not_exist_is_named(site: Site) -> None:
    site.write(
        "page", text=HEADER.replace("python3", "nope") + "# Page\n\n```{code-cell}\n1\n```\n"
    )
    build = site.build()
    assert [("kernel-died", 4)] == build.findings("page")
    assert "the kernel 'nope' is not installed here. Install the kernel" in build.log


def test_broken_header_is_named(site: Site) -> None:
    site.write(
        "page", text=HEADER.replace("  name", "  - name: [") + "# P\n\n```{code-cell}\n1\n```\n"
    )
    build = site.build()
    assert 1 == build.status
    assert "source/page.md" in build.log


def test_notebook_file_is_executed(site: Site) -> None:
    import nbformat

    cells = [nbformat.v4.new_markdown_cell("# Notebook"), nbformat.v4.new_code_cell(BROKEN.strip())]
    path = site.source / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (finding,) = site.build().findings("notebook")
    assert "unpickle-task" == finding[0]
    assert '"cell_type": "code"' in path.read_text().splitlines()[finding[1] - 1]


def test_notebook_with_stored_outputs_is_not_taken_for_executed(site: Site) -> None:
    import nbformat

    cell = nbformat.v4.new_code_cell(
        "1 + 1", outputs=[nbformat.v4.new_output("stream", text="from last year")]
    )
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# N"), cell]),
        site.source / "notebook.ipynb",
    )
    build = site.build()
    assert (0, False) == (build.status, build.page("notebook")["executed"])
    assert "source/notebook.ipynb: not executed, as its outputs are stored in the file" in build.log
    assert "from last year" in (build.outdir / "notebook.html").read_text()


def test_arguments_of_processes_are_never_published(site: Site) -> None:
    """They may hold a password; a build's log is as public as its site."""
    site.write(
        "page",
        "import os, subprocess, sys",
        "secret = os.environ['PASSWORD']\n"
        "for _ in range(2):\n"
        "    subprocess.Popen(['sh', '-c', 'sleep 300; true', secret], start_new_session=True)",
        "code = 'import time; time.sleep(4)'\n"
        "subprocess.Popen([sys.executable, '-S', '-c', code, secret]).wait()",
    )
    build = site.build(env={"PASSWORD": "hunter2-hunter2"})
    assert 1 == build.status
    assert "4 processes outlived the page and were ended: sh (2), sleep (2)" in build.log
    assert "started without the recorder: python" in build.log
    published = [
        build.log.encode(),
        *(p.read_bytes() for p in build.outdir.rglob("*.*") if p.is_file()),
    ]
    assert not any(b"hunter2" in content for content in published)
