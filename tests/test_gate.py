"""Missing evidence never passes the gate: each way to fool it is tried."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import PASSES, Build, Site, gate
from preloaded import Preloaded


@pytest.fixture(scope="module")
def green(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded | None) -> Build:
    site = Site(tmp_path_factory.mktemp("green"), preloaded)
    site.write("page", "print(6 * 7)")
    site.write("prose", text="# Prose\n\n````md\n```{code-cell}\nquoted\n```\n````\n")
    return site.build()


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded | None) -> Build:
    site = Site(tmp_path_factory.mktemp("red"), preloaded)
    site.write("page", "1 / 0")
    return site.build()


@pytest.fixture
def outdir(green: Build, tmp_path: Path) -> Path:
    return Path(shutil.copytree(green.outdir, tmp_path / "html"))


def edit(outdir: Path, change: Callable[[dict], None]) -> None:
    path = outdir / "workercheck" / "report.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_clean_build_passes(outdir: Path) -> None:
    done = gate(outdir)
    assert (0, "") == (done.returncode, done.stderr)
    assert "1 page with code, 0 failed" in done.stdout


def test_findings_exit_1(red: Build) -> None:
    done = gate(red.outdir)
    assert 1 == done.returncode
    assert "source/page.md:9: the cell failed (ZeroDivisionError: division by zero)." in done.stdout


def test_reader_that_goes_has_read_enough(red: Build) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = gate(red.outdir, stdout=gone)
    assert (1, "") == (done.returncode, done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_report_that_cannot_be_printed_is_no_verdict(outdir: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = gate(outdir, stdout=full)
    message = "workercheck: standard output: No space left on device\n"
    assert (2, message) == (done.returncode, done.stderr)


def cannot_tell(outdir: Path, reason: str) -> None:
    done = gate(outdir)
    assert 2 == done.returncode, done.stdout
    assert reason in done.stderr


def test_no_folder(tmp_path: Path) -> None:
    cannot_tell(tmp_path / "nothing", "no such folder")


def test_no_report(outdir: Path) -> None:
    shutil.rmtree(outdir / "workercheck")
    cannot_tell(outdir, "no report")


@pytest.mark.parametrize("keep", [0, 1, 200, -5])
def test_truncated_report(outdir: Path, keep: int) -> None:
    path = outdir / "workercheck" / "report.json"
    path.write_text(path.read_text()[:keep])
    cannot_tell(outdir, "truncated or damaged")


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 1}', '"pass"', "null"])
def test_json_that_is_no_report(outdir: Path, text: str) -> None:
    (outdir / "workercheck" / "report.json").write_text(text)
    cannot_tell(outdir, "damaged")


def test_report_of_another_build(outdir: Path, red: Build) -> None:
    shutil.copy(red.outdir / "workercheck" / "report.json", outdir / "workercheck")
    cannot_tell(outdir, "another build")


def test_report_of_another_schema(outdir: Path) -> None:
    edit(outdir, lambda data: data.update(schema=2))
    cannot_tell(outdir, "schema 2")


def test_verdict_that_contradicts_the_findings(red: Build, tmp_path: Path) -> None:
    outdir = Path(shutil.copytree(red.outdir, tmp_path / "html"))
    edit(outdir, lambda data: data.update(verdict="pass"))
    cannot_tell(outdir, "its findings say 'fail'")


def test_page_changed_after_the_build(outdir: Path) -> None:
    with (outdir / "page.html").open("a") as file:
        file.write("<p>more</p>")
    cannot_tell(outdir, "page.html: the page is not the one that was checked")


def test_page_missing_from_the_report(outdir: Path) -> None:
    shutil.copy(outdir / "page.html", outdir / "other.html")
    cannot_tell(outdir, "other.html: a page with code cells that the report does not mention")


def test_code_cell_on_a_page_that_the_report_does_not_mention(outdir: Path) -> None:
    (outdir / "_sources" / "other.md.txt").write_text("# Other\n\n```{code-cell}\n1\n```\n")
    cannot_tell(outdir, "other.md.txt:3: a code-cell")


def test_extension_taken_out(site: Site) -> None:
    site.write("page", "print(6 * 7)")
    assert 0 == gate(site.build().outdir).returncode
    site.conf('extensions = ["myst_nb"]\n')
    cannot_tell(site.build().outdir, "taken out of conf.py")


def test_nothing_executed(site: Site) -> None:
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\nnb_execution_mode = "off"\n'
        'workercheck_allow_unexecuted = ["*"]\n'
    )
    site.write("page", "print(6 * 7)")
    build = site.build()
    assert 0 == build.status
    cannot_tell(build.outdir, "no page was executed")


def test_site_without_code(site: Site) -> None:
    site.write("page", text="# Page\n")
    cannot_tell(site.build().outdir, "no page was executed")


def test_output_of_a_page_that_was_renamed_goes_and_an_old_site_beside_is_none(site: Site) -> None:
    old = site.source / "old" / "archive"
    old.mkdir(parents=True)
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\nhtml_extra_path = ["old"]\n'
        'exclude_patterns = ["old"]\n'
    )
    before = site.write("before", PASSES)
    first = site.build()
    assert 0 == gate(first.outdir).returncode
    shutil.copy(first.outdir / "before.html", old / "page.html")
    before.rename(before.with_name("after.md"))
    second = site.build()
    judged = gate(second.outdir)
    assert (0, 0) == (second.status, judged.returncode), judged.stderr
    assert not (second.outdir / "before.html").exists()
    assert (second.outdir / "archive" / "page.html").exists()


def test_build_that_broke_off_is_not_judged(site: Site) -> None:
    site.write("page", "print(6 * 7)")
    site.build()
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\n\n\ndef setup(app):\n'
        '    app.connect("env-updated", lambda *_: 1 / 0)\n'
    )
    build = site.build()
    assert 0 != build.status
    assert "the build did not finish: ExtensionError" in build.log
    assert build.page("page")["executed"]
    cannot_tell(build.outdir, "the build did not finish")


def test_formats(red: Build) -> None:
    data = json.loads(gate(red.outdir, "--format", "json").stdout)
    assert (1, "fail") == (data["schema"], data["verdict"])
    suite = ElementTree.fromstring(gate(red.outdir, "--format", "junit").stdout)
    assert ("1", "1") == (suite.get("tests"), suite.get("failures"))
    assert "cell-error" == suite.find("testcase/failure").get("type")
    (line,) = gate(red.outdir, "--format", "github").stdout.splitlines()
    assert line.startswith("::error file=source/page.md,line=9,title=workercheck cell-error::")
