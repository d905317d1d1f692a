"""What a site says of its pages' runs: the line at the foot of each, and the execution report."""

from __future__ import annotations

import html
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from urllib.parse import unquote

import pytest
from conftest import BROKEN, HEADER, PASSES, Build, Site, gate
from workercheck.report.provenance import execution_report
from workercheck.report.record import PageReport, Report

WORK = """
!true
import numpy as np
from loky import get_reusable_executor

print(get_reusable_executor(max_workers=2).submit(np.sqrt, 4).result())
"""

FOOT = re.compile(r'<div class="workercheck">.*?</div>', re.DOTALL)


def foot_html(build: Build, docname: str, file: str = "{}.html") -> str:
    (foot,) = FOOT.findall((build.outdir / file.format(docname)).read_text())
    return foot


def words(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def foot(build: Build, docname: str) -> str:
    return words(foot_html(build, docname))


def report(build: Build) -> str:
    """Return the body of the execution report, without what the theme puts around it."""
    text = (build.outdir / "workercheck" / "report.html").read_text()
    return text[text.index('<section id="execution-report">') : text.rindex("</section>")]


def test_foot_says_when_where_and_with_what_a_page_ran(site: Site) -> None:
    site.write("work", WORK)
    site.write("prose", text="# Prose\n")
    build = site.build("-W", "-n")
    assert 0 == build.status, build.log
    page = build.page("work")
    assert (
        f"Ran on {page['ended'][:16].replace('T', ' ')} UTC in {page['seconds']:.1f} s,"
        f" with Python {platform.python_version()}"
        f", loky {version('loky')}, numpy {version('numpy')}."
        f" Its work went to loky: {page['workers']} worker"
    ) in foot(build, "work")
    assert foot(build, "work").endswith(". No worker errors. Execution report")
    assert not FOOT.search((build.outdir / "prose.html").read_text())


def test_long_names_in_the_report_break_after_a_dot_or_a_slash_and_numbers_do_not() -> None:
    name = "concurrent.futures.ProcessPoolExecutor"
    page = PageReport("a/long.name", "a/long.name.md", True, seconds=1.5, executors=[name])
    environment = {"python": "3.14", "start_method": "spawn", "packages": {}}
    text = execution_report(Report(environment, [page], {}), "{}.html".format, "report.json")
    assert ">concurrent.<wbr>futures.<wbr>ProcessPoolExecutor</td>" in text
    assert '"a/long.name.html">a/<wbr>long.<wbr>name</a>' in text
    assert ">1.5 s<" in text


def test_line_and_report_link_to_each_other(site: Site) -> None:
    site.write("folder/page with space", PASSES)
    site.write("index", text="# I\n\n```{toctree}\nfolder/page with space\n```\n")
    build = site.build("-W")
    assert 0 == build.status, build.log
    place = build.outdir / "folder"
    target, _, anchor = (
        re.search('href="(.*?)"', foot_html(build, "folder/page with space"))
        .group(1)
        .partition("#")
    )
    assert (build.outdir / "workercheck" / "report.html") == (place / target).resolve()
    assert "page-folder/page%20with%20space" == anchor
    assert '<tr id="page-folder/page with space" role="row">' in report(build)
    links = re.findall('<a class="reference internal" href="([^"]*)"', report(build))
    there = {(build.outdir / "workercheck" / unquote(link)).resolve() for link in links}
    assert {place / "page with space.html", build.outdir / "workercheck" / "report.json"} <= there


def test_failure_is_told_with_line_and_way_out(site: Site) -> None:
    site.write("broken", BROKEN)
    site.write("expected", BROKEN, tags="expect-worker-error")
    site.write("good", PASSES)
    build = site.build()
    assert 1 == build.status
    assert ". 1 failure. Execution report" in foot(build, "broken")
    assert ". No worker errors except 1 that was expected. Execution report" in foot(
        build, "expected"
    )
    assert ". No worker errors. Execution report" in foot(build, "good")
    text = words(report(build))
    assert "3 pages with code, 1 failed (1 failure expected)" in text
    assert "Failure: source/broken.md:9: a worker could not unpickle __main__.area" in text
    assert "or hand the work to loky, which pickles area by value. [unpickle-task]" in text
    assert "Expected: source/expected.md:9: a worker could not unpickle __main__.area" in text


def test_clean_report_has_no_finding_and_the_gate_lets_it_pass(site: Site) -> None:
    site.write("good", PASSES)
    build = site.build()
    assert "FindingsNone." in words(report(build))
    assert f"numpy{version('numpy')}" in words(report(build))
    assert 0 == gate(build.outdir).returncode


def test_page_that_nobody_executed_says_so(site: Site) -> None:
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\n'
        'nb_execution_excludepatterns = ["allowed.md"]\n'
        'workercheck_allow_unexecuted = ["allowed"]\n'
    )
    site.write("allowed", PASSES)
    site.write("stray", text="# Stray\n\n```{code-cell}\n1 + 1\n```\n")
    site.write("good", PASSES)
    build = site.build()
    assert (
        "Not executed, as conf.py says (nb_execution_excludepatterns has 'allowed.md'). "
        "Execution report"
    ) == foot(build, "allowed")
    assert "1 failure. Execution report" == foot(build, "stray")
    assert "source/stray.md:3: not executed: a code-cell outside a notebook" in words(report(build))


def test_text_of_a_page_cannot_become_markup(site: Site) -> None:
    site.write("hostile<b>", 'raise ValueError("<script>alert(1)</script> & \\"more\\"")')
    build = site.build()
    assert "<script>alert(1)" not in report(build)
    assert "hostile<b>" not in report(build)
    assert 'ValueError: <script>alert(1)</script> & "more"' in words(report(build))


def test_only_pages_that_ran_again_are_written_again(site: Site) -> None:
    kept = site.write("kept", "print(6 + 7)")
    changed = site.write("changed", PASSES)
    first = site.build()
    before = (first.outdir / "kept.html").stat().st_mtime_ns
    lines = {name: foot_html(first, name) for name in ("kept", "changed")}

    changed.write_text(changed.read_text().replace("6 * 7", "6 * 8"))
    second = site.build()
    assert before == (second.outdir / "kept.html").stat().st_mtime_ns
    assert lines["kept"] == foot_html(second, "kept")
    assert first.page("kept")["ended"] == second.page("kept")["ended"]
    assert first.page("changed")["ended"] <= second.page("changed")["ended"]
    assert f'datetime="{second.page("changed")["ended"]}"' in foot_html(second, "changed")

    # Read again, and taken from the cache: the run is the same, and so is what is said of it.
    kept.write_text(kept.read_text() + "\nOne more sentence.\n")
    third = site.build()
    assert third.page("kept")["cached"]
    assert lines["kept"] == foot_html(third, "kept")
    assert "(from the cache)" in report(third)

    changed.unlink()
    last = site.build()
    assert "page-changed" not in report(last)
    assert "1 page with code, 0 failed (1 unchanged)" in words(report(last))
    assert not (last.outdir / "changed.html").exists()
    assert not (last.outdir / "_sources" / "changed.md.txt").exists()


def test_build_that_broke_off_leaves_no_execution_report(site: Site) -> None:
    site.write("page", PASSES)
    assert (site.build().outdir / "workercheck" / "report.html").exists()
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\n\n\ndef setup(app):\n'
        '    app.connect("env-updated", lambda *_: 1 / 0)\n'
    )
    assert not (site.build().outdir / "workercheck" / "report.html").exists()


@pytest.mark.parametrize("theme", ["alabaster", "furo", "pydata_sphinx_theme"])
def test_every_theme_shows_it(site: Site, theme: str) -> None:
    site.conf(f'extensions = ["myst_nb", "workercheck"]\nhtml_theme = "{theme}"\n')
    site.write("good", PASSES)
    build = site.build("-W")
    assert 0 == build.status, build.log
    assert ". No worker errors. Execution report" in foot(build, "good")
    assert "<h1>Execution report</h1>" in report(build)


def test_folders_instead_of_files(site: Site) -> None:
    site.write("good", PASSES)
    site.build()
    build = site.build("-b", "dirhtml")
    target = re.search('href="(.*?)#', foot_html(build, "good", "{}/index.html")).group(1)
    page = (build.outdir / "good" / target).resolve() / "index.html"
    (json_href,) = re.findall('href="([^"]*report.json)"', page.read_text())
    assert "pass" == json.loads((page.parent / json_href).read_text())["verdict"]
    assert 0 == gate(build.outdir).returncode


def test_parallel_write_says_the_same(site: Site) -> None:
    for number in range(8):
        site.write(f"page{number}", f"print({number})")
    build = site.build("-j", "2")
    assert 0 == build.status, build.log
    for page in build.report["pages"]:
        assert f'datetime="{page["ended"]}"' in foot_html(build, page["docname"])


def test_named_packages_are_on_every_page(site: Site) -> None:
    site.conf('extensions = ["myst_nb", "workercheck"]\nworkercheck_packages = ["loky"]\n')
    site.write("good", PASSES)
    assert f", loky {version('loky')}. It started no workers." in foot(site.build(), "good")


def test_other_interpreter_is_not_given_our_versions(site: Site) -> None:
    """A kernel of another environment: what is installed there, the build cannot know."""
    other = site.root / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True)
    python = other / "bin" / "python"
    (site_packages,) = other.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site_packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    spec = site.root / "jupyter" / "kernels" / "other" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    site.write(
        "page",
        text=HEADER.replace("python3", "other") + "# P\n\n```{code-cell}\nimport numpy\n```\n",
    )
    build = site.build(env={"JUPYTER_PATH": str(site.root / "jupyter"), "PATH": os.environ["PATH"]})
    assert 0 == build.status, build.log
    assert f"s, with Python {platform.python_version()}. It started no" in foot(build, "page")
