"""Kept runs are good on another machine, and what comes from elsewhere is checked first."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import Site
from workercheck.run import seal


def workercheck(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workercheck", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def cached(site: Site, *options: str) -> dict[str, bool]:
    build = site.build(*options)
    assert 0 == build.status, build.log
    return {page["docname"]: page["cached"] for page in build.report["pages"]}


@pytest.fixture
def two(site: Site, tmp_path: Path) -> tuple[Site, Site]:
    """Two copies of a project; the first has run into its store, by two builds."""
    conf = 'extensions = ["myst_nb", "workercheck"]\nworkercheck_store = "../store"\n'
    site.conf(conf)
    site.write("one", "import helper\nprint(helper.value)")
    (site.source / "helper.py").write_text("value = 1\n")
    site.write("two", "print(6 * 7)")
    other = Site(tmp_path / "on" / "another" / "machine")
    shutil.copytree(site.source, other.source, dirs_exist_ok=True)
    assert {"one": False, "two": False} == cached(site)
    return site, other


def test_path_of_the_store_is_from_conf_py_or_from_where_it_is_typed(
    two: tuple[Site, Site],
) -> None:
    site, other = two
    assert (site.root / "store" / "seconds").is_dir()
    assert not (site.root / ".jupyter_cache" / "workercheck").exists()
    page = site.root / "html" / "one.html"
    written = page.stat().st_mtime_ns
    # Another path writes no page again, as a setting does that pages depend on.
    cached(site, "-D", "workercheck_store=elsewhere", "-D", "workercheck_jobs=1")
    assert written == page.stat().st_mtime_ns
    cached(site, "-D", "workercheck_timeout=99")
    assert written < page.stat().st_mtime_ns
    # Merged by copying files.
    shutil.copytree(site.root / "store", other.root / "kept", dirs_exist_ok=True)
    assert {"one": True, "two": True} == cached(other, "-D", "workercheck_store=kept")
    (other.source / "helper.py").write_text("value = 2\n")
    assert {"one": False, "two": True} == cached(other, "-E", "-D", "workercheck_store=kept")


def test_exported_runs_are_taken_elsewhere_and_what_was_tampered_with_is_refused(
    two: tuple[Site, Site],
) -> None:
    site, other = two
    done = workercheck("cache", "export", "runs.zip", "--store", "store", cwd=site.root)
    assert (0, "workercheck: runs.zip has 2 runs\n") == (done.returncode, done.stdout), done.stderr
    tampered = other.root / "tampered.zip"
    refused = {}
    with zipfile.ZipFile(site.root / "runs.zip") as was, zipfile.ZipFile(tampered, "w") as file:
        for name in was.namelist():
            content = was.read(name)
            if b'"42\\n"' in content:  # the output of a page
                content = content.replace(b'"42\\n"', b'"43\\n"')
                refused[name] = "not as it was written"
            file.writestr(name, content)
        folder = next(name for name in was.namelist() if name.endswith(".run")).split("/")[0]
        strangers = {
            "../outside.run": b"",
            f"{folder}/../../{'0' * 32}.run": b"",
            f"{folder}/conf.py": b"",
        }
        for name, content in strangers.items():
            file.writestr(name, content)
            refused[name] = "no file of a store"
        shapes = {
            # As whoever wants to be believed would seal it.
            f"{folder}/{'0' * 32}.run": seal.seal("", b"cos\nsystem\n(S'false'\ntR."),
            f"{folder}/{'1' * 32}.run": seal.seal("", json.dumps({"cells": []}).encode()),
            "seconds/0123456789abcdef.json": b"[]",
        }
        for name, content in shapes.items():
            file.writestr(name, content)
            refused[name] = "its content has another shape"
    done = workercheck("cache", "import", tampered, "--store", "store", cwd=other.root)
    assert (1, "workercheck: 1 run taken into store\n") == (done.returncode, done.stdout)
    told = {f"workercheck: {name} is refused: {why}" for name, why in refused.items()}
    assert told == set(done.stderr.splitlines())
    assert not list(other.root.parent.rglob("outside.run"))
    assert {"one": True, "two": False} == cached(other)
    shutil.rmtree(other.root / "store")
    exported = site.root / "runs.zip"
    done = workercheck("cache", "import", exported, "--store", "store", cwd=other.root)
    assert (0, "") == (done.returncode, done.stderr)
    assert {"one": True, "two": True} == cached(other, "-E")


def test_what_is_no_archive_and_what_is_no_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    for words, why in {
        ("import", "text"): "text: not written by workercheck cache export",
        ("import", "gone"): "gone: No such file or directory",
        ("export", "runs.zip"): "store: no such folder",
    }.items():
        done = workercheck("cache", *words, "--store", "store", cwd=tmp_path)
        assert (2, f"workercheck: {why}\n") == (done.returncode, done.stderr)
    assert not (tmp_path / "store").exists()


def test_run_whose_outputs_have_another_shape_is_dropped(site: Site) -> None:
    site.write("page", "print(6 * 7)")
    cached(site)
    (run,) = (site.root / ".jupyter_cache" / "workercheck").glob("*/*.run")
    body = json.loads(run.read_bytes().partition(b"\n")[2])
    body["cells"][0]["outputs"][0] = {"output_type": "stream", "name": "stdout", "text": 42}
    run.write_bytes(seal.seal("", json.dumps(body).encode()))
    assert {"page": False} == cached(site, "-E")
