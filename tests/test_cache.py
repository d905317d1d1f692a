"""A kept run is as good as a run: what is kept, when it is used, and what damage does to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import HEADER, Build, Site
from workercheck.run import seal
from workercheck.run.reaper import processes_below
from workercheck.run.store import KEPT_ENVIRONMENTS, KEPT_FOR, PageCache

ANSWER = "print(6 * 7)"


def html(build: Build, docname: str) -> str:
    text = (build.outdir / f"{docname}.html").read_text()
    # The first build of a site leaves this out where a file came from an extension.
    text = re.sub(r"\?v=\w+", "", text)
    # When and how long the page ran.
    return re.sub(r'<div class="workercheck">.*?</div>', "", text)


def cached(build: Build) -> dict[str, bool]:
    return {page["docname"]: page["cached"] for page in build.report["pages"]}


def kept(site: Site) -> list[Path]:
    """Return the files of kept runs."""
    return sorted((site.root / ".jupyter_cache" / "workercheck").glob("*/*.run"))


# --- what makes a page run again ---


def test_text_or_tag_for_readers_does_not_make_a_page_run_again(site: Site) -> None:
    page = site.write("page", ANSWER)
    site.build()
    page.write_text(page.read_text().replace("# page\n", "# page\n\nA sentence.\n"))
    build = site.build()
    assert {"page": True} == cached(build)
    assert "A sentence." in html(build, "page")
    site.write("page", ANSWER, tags="remove-input")
    build = site.build()
    assert {"page": True} == cached(build)
    assert ">42\n" in html(build, "page")
    assert "cell_input" not in html(build, "page")
    site.write("page", "print(6 * 8)", tags="remove-input")
    assert {"page": False} == cached(site.build())


def test_tags_that_bear_on_the_run_are_judged_anew(site: Site) -> None:
    site.write("page", "1 / 0", tags="raises-exception")
    assert (0, {"page": False}) == ((build := site.build()).status, cached(build))
    site.write("page", "1 / 0")
    assert [("cell-error", 9)] == site.build().findings("page")
    site.write("page", "1 / 0", tags="hide-input, raises-exception")
    assert 0 == (build := site.build()).status, build.log
    site.write("page", "1 / 0", tags="raises-exception, expect-worker-error")
    assert [("expected-but-absent", 9)] == site.build().findings("page")
    site.write("page", "1 / 0", tags="skip-execution")
    build = site.build()
    assert (0, {"page": False}) == (build.status, cached(build)), build.log
    assert "ZeroDivisionError" not in html(build, "page")


def test_pages_with_the_same_code_keep_their_own_outputs(site: Site) -> None:
    cell = "import os, time\nprint('in', os.path.basename(os.getcwd()))"
    site.write("index", text="# Index\n\n```{toctree}\none/page\ntwo/page\ntwo/same\n```\n")
    for docname in ("one/page", "two/page", "two/same"):
        site.write(docname, cell)
    for _ in range(2):
        build = site.build("-E")
        assert 0 == build.status, build.log
        assert "in one\n" in html(build, "one/page")
        assert "in two\n" in html(build, "two/page")
    assert {"one/page": True, "two/page": True, "two/same": True} == cached(build)


STANDIN = {
    "good": "def run(function):\n    return function(2)\n",
    "broken": "from concurrent.futures import ProcessPoolExecutor\n"
    "from multiprocessing import get_context\n\n"
    "def run(function):\n"
    "    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as executor:\n"
    "        executor.submit(function, 2)\n",
}


def test_broken_release_over_the_same_caches_is_red_and_going_back_executes_nothing(
    site: Site, tmp_path: Path
) -> None:
    for version, code in STANDIN.items():
        release = tmp_path / version
        info = release / f"standin-{len(version)}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: standin\nVersion: {len(version)}\n")
        (release / "standin.py").write_text(code)
    site.write("page", "import standin\ndef area(x):\n    return x * x\n\nstandin.run(area)")
    site.write("other", ANSWER)

    def build(version: str) -> Build:
        return site.build(env={"PYTHONPATH": str(tmp_path / version)})

    green = build("good")
    assert 0 == green.status, green.log
    red = build("broken")
    assert 1 == red.status
    assert [("unpickle-task", 9)] == red.findings("page")
    again = build("good")
    assert 0 == again.status, again.log
    assert {"page": True, "other": True} == cached(again)
    assert "executing" not in again.log


def test_changed_module_is_noticed_by_a_build_that_reads_nothing_else(site: Site) -> None:
    helper = site.source / "helper_of_a_page.py"
    helper.write_text("value = 1\n")
    site.write("page", "import helper_of_a_page\nprint(helper_of_a_page.value)")
    site.write("other", ANSWER)
    site.build()
    modified = (site.root / "html" / "other.html").stat().st_mtime
    helper.write_text("value = 2\n")
    build = site.build()
    assert ">2\n" in html(build, "page")
    assert modified == (build.outdir / "other.html").stat().st_mtime


IN_WORKER = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
context = multiprocessing.get_context("spawn")
with ProcessPoolExecutor(1, mp_context=context) as executor:
    print(executor.submit(eval, "__import__('helper_of_a_worker').value").result())
"""


def test_what_only_a_worker_or_a_script_runs_is_noticed_and_a_run_is_good_elsewhere(
    site: Site, tmp_path: Path
) -> None:
    helpers = [site.source / name for name in ("helper_of_a_worker.py", "script.py")]
    for value in (1, 2):
        helpers[0].write_text(f"value = {value}\n")
        helpers[1].write_text(f"print({value})\n")
        site.write("worker", IN_WORKER)
        site.write("script", "%run script.py")
        build = site.build()
        assert (0, {"worker": False, "script": False}) == (build.status, cached(build)), build.log
        for docname in ("worker", "script"):
            assert f">{value}\n" in html(build, docname)
    # The same project, cloned to another place, with the cache of the first.
    other = Site(tmp_path / "elsewhere" / "clone")
    for name in ("source", ".jupyter_cache"):
        shutil.copytree(site.root / name, other.root / name, dirs_exist_ok=True)
    build = other.build()
    assert {"worker": True, "script": True} == cached(build), build.log
    (other.source / "script.py").write_text("print(3)\n")
    build = other.build()
    assert {"worker": True, "script": False} == cached(build), build.log
    assert ">3\n" in html(build, "script")


# --- damage ---


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(os.urandom(4096)),
    "altered": lambda path: path.write_bytes(path.read_bytes().replace(b"42", b"43")),
    "folder": replace_by_folder,
    # As it was written, by something else.
    "foreign": lambda path: path.write_bytes(seal.seal("", b"[1, 2]")),
    "deep": lambda path: path.write_bytes(seal.seal("", b"[" * 100_000)),
    **({"pipe": replace_by_pipe} if hasattr(os, "mkfifo") else {}),
}


def test_damaged_cache_is_told_in_one_line_and_the_build_is_right(site: Site) -> None:
    for name in DAMAGE:
        site.write(name, f"print(6 * 7, {name!r})")
    site.build()
    runs = {next(name for name in DAMAGE if f"42 {name}" in p.read_text()): p for p in kept(site)}
    assert DAMAGE.keys() == runs.keys()
    for name, damage in DAMAGE.items():
        damage(runs[name])
    for times in ("", "[1]", '{"docname": "half", "seconds": NaN}'):
        for path in (site.root / ".jupyter_cache" / "workercheck" / "seconds").iterdir():
            path.write_text(times)
        build = site.build("-E")
        assert 0 == build.status, build.log
        assert "Traceback" not in build.log
        dropped = re.findall(
            "workercheck: dropped the kept runs of (.*), which are damaged", build.log
        )
        # What cannot be removed is told again.
        expected = sorted(["folder"] if times else DAMAGE)
        assert [expected] == [sorted(line.split(", ")) for line in dropped]
        assert {name: name not in expected for name in DAMAGE} == cached(build)
        for name in DAMAGE:
            assert f">42 {name}\n" in html(build, name)


def test_with_a_key_only_what_is_signed_with_it_counts(site: Site) -> None:
    site.write("one", "import os\nprint(os.environ.get('WORKERCHECK_CACHE_KEY'))")
    site.write("two", "print(6 * 7)")

    def build(key: str) -> Build:
        done = site.build("-E", env={"WORKERCHECK_CACHE_KEY": key})
        assert 0 == done.status, done.log
        return done

    unsigned = "the kept runs of one, two do not count, because they are not signed with the key"
    assert unsigned not in build("").log
    first = build("a key")
    assert {"one": False, "two": False} == cached(first)
    assert 1 == first.log.count(unsigned)
    assert ">None\n" in html(first, "one")  # a page cannot sign
    again = build("a key")
    assert {"one": True, "two": True} == cached(again)
    assert unsigned not in again.log
    assert {"one": False, "two": False} == cached(build("another key"))
    # A run that is signed, under the name of another page's.
    one, two = kept(site)
    one.write_bytes(two.read_bytes())
    assert [False, True] == sorted(cached(build("another key")).values())


def test_cache_that_cannot_be_written_is_told_and_the_build_is_right(site: Site) -> None:
    (site.root / ".jupyter_cache").write_text("in the way")
    site.write("page", ANSWER)
    build = site.build()
    assert 0 == build.status, build.log
    assert 1 == build.log.count("workercheck: not kept for the next run: page (")
    assert ">42\n" in html(build, "page")


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_costs_the_cache_and_not_the_build(site: Site, small_disk: Path) -> None:
    site.conf(
        f'extensions = ["myst_nb", "workercheck"]\nnb_execution_cache_path = {str(small_disk)!r}\n'
    )
    site.write("large", "print('a long line ' * 20_000)")
    site.write("small", ANSWER)
    build = site.build()
    assert 0 == build.status, build.log
    assert "workercheck: not kept for the next run: large (" in build.log
    assert "No space left on device" in build.log
    assert "Traceback" not in build.log
    again = site.build("-E")
    assert {"large": False, "small": True} == cached(again), (build.log, again.log)


def test_full_disk_where_the_build_must_write_is_named(site: Site, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(64 * 1024))
    site.write("page", ANSWER)
    build = site.build("-d", str(small_disk))
    assert 0 != build.status
    assert f"workercheck: {small_disk}/workercheck" in build.log
    assert "No space left on device. Make room there" in build.log
    (small_disk / "filler").unlink()
    (small_disk / "environment.pickle").unlink(missing_ok=True)
    build = site.build()
    assert 0 == build.status, build.log


# --- several builds, and builds that are killed ---


def test_two_builds_at_once_over_one_cache_are_both_right(site: Site) -> None:
    site.conf(
        'extensions = ["myst_nb", "workercheck"]\n'
        f"nb_execution_cache_path = {str(site.root / 'shared')!r}\n"
    )
    for number in range(3):
        site.write(f"page{number}", f"import random\nprint(6 * 7, random.random(), {number})")
    site.write("index", text="# Index\n\n```{toctree}\n:glob:\n\npage*\n```\n")
    others = [Site(site.root / name) for name in ("left", "right")]
    for other in others:
        shutil.rmtree(other.source)
        other.source.symlink_to(site.source)
    with ThreadPoolExecutor() as executor:
        builds = list(executor.map(lambda other: other.build("-E"), others))
    for build in builds:
        assert 0 == build.status, build.log
        assert "dropped" not in build.log
    assert [] == [path.name for path in (site.root / "shared").rglob("tmp*")]


def start(site: Site, temporary: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sphinx", "-q", "-b", "html", "source", "html"],
        cwd=site.root,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


def wait_until_none_is_left(folder: Path) -> None:
    """Wait until no process has its evidence below a folder, or tell which one does."""
    deadline = time.monotonic() + 30
    while (left := processes_below(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    now = time.time()
    assert [] == [
        f"{now - process.create_time():.1f} s old: {process}, {process.cmdline()}"
        for process in left
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_build_after_builds_killed_at_any_moment_is_right(site: Site, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    site.write("steady", ANSWER)
    site.write("page", ANSWER)
    first = site.build(env={})  # in a new process, as those that are killed
    assert 0 == first.status, first.log
    kills = 8
    for number in range(1, kills + 1):
        site.write("page", f"print('version', {number})")
        build = start(site, temporary)
        # Spread over the whole of a build, past its end.
        time.sleep(first.seconds * number / kills)
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
        wait_until_none_is_left(temporary)
    after = site.build()
    assert 0 == after.status, after.log
    assert "Traceback" not in after.log
    assert f"version {kills}\n" in html(after, "page")
    clean = Site(tmp_path / "clean")
    shutil.copytree(site.source, clean.source, dirs_exist_ok=True)
    expected = clean.build()
    for page in ("steady", "page", "index"):
        assert html(expected, page) == html(after, page)


def test_pages_of_a_build_that_did_not_finish_are_written_again(site: Site) -> None:
    site.write("page", ANSWER)
    site.write("other", ANSWER)
    build = site.build()
    whole = html(build, "other")
    # A build that is killed while it writes leaves a page that is newer than its source.
    (build.outdir / "other.html").write_text(whole[: len(whole) // 2])
    assert whole != html(site.build(), "other")  # what Sphinx makes of it
    left = site.root / "html" / ".doctrees" / "workercheck" / f"{os.getpid()}-0.00"
    left.mkdir(parents=True)
    build = site.build()
    assert "workercheck: the last build did not finish; every page is read again" in build.log
    assert whole == html(build, "other")
    assert {"page": True, "other": True} == cached(build)
    assert not left.exists()
    assert "did not finish" not in site.build().log


@pytest.mark.parametrize("watched", [True, False], ids=["reaper", "without it"])
def test_killed_build_leaves_no_process(site: Site, tmp_path: Path, watched: bool) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    site.write(
        "page",
        "import subprocess, sys, time\n"
        "child = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(child, start_new_session=True)\n"
        "time.sleep(600)",
    )
    build = start(site, temporary)
    try:
        wait_until(lambda: len(processes_below(temporary)) == 2, 60)
        (reaper,) = (
            child
            for child in psutil.Process(build.pid).children()
            if "workercheck.run.reaper" in child.cmdline()
        )
        if not watched:
            reaper.kill()
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
        if watched:
            wait_until_none_is_left(temporary)
            wait_until(lambda: list(temporary.iterdir()) == [], 5)
        else:
            # The kernel notices that its parent is gone, and leaves its child behind.
            wait_until(lambda: len(processes_below(temporary)) == 1, 15)
            time.sleep(2)
            assert 1 == len(processes_below(temporary))
    finally:
        build.kill()
        for process in processes_below(temporary):
            process.kill()


# --- pruning ---


def test_old_environments_and_runs_are_pruned_and_recent_ones_are_not(tmp_path: Path) -> None:
    now = time.time()
    caches = [PageCache(tmp_path, f"{number:016x}") for number in range(6)]
    for number, cache in enumerate(caches):
        cache.path.mkdir()
        for age in (0.5, 1.5):
            run = cache.path / f"{age}.run"
            run.touch()
            os.utime(run, (now - age * KEPT_FOR,) * 2)
        age = 0.5 if number == 0 else 1 + number / 10
        os.utime(cache.path, (now - age * KEPT_FOR,) * 2)
    foreign = tmp_path / "notes"
    foreign.mkdir()
    os.utime(foreign, (0, 0))
    # The oldest of all is used again, and so is one of the few last ones.
    caches[5].prune()
    left = [cache.path.name for cache in caches if cache.path.exists()]
    assert KEPT_ENVIRONMENTS == len(left)
    assert [caches[number].path.name for number in (0, 1, 5)] == left
    assert foreign.exists()
    assert ["0.5.run"] == [path.name for path in caches[5].path.iterdir()]


def test_environment_used_lately_is_kept_however_many_there_are(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number:016x}").mkdir()
    PageCache(tmp_path, f"{0:016x}").prune()
    assert 6 == len(list(tmp_path.iterdir()))


def test_builds_of_one_site_differ_in_no_more_than_time(site: Site) -> None:
    for number in range(3):
        site.write(f"page{number}", ANSWER)
    site.write("broken", "1 / 0")
    site.write("stray", text=HEADER + "# Stray\n\n- in a list\n\n  ```{code-cell}\n  1\n  ```\n")

    def pages(*options: str) -> list[dict]:
        report = site.build(*options, env={}).report  # each hashes strings by another seed
        of_this_build = ("seconds", "ended", "cached", "unchanged")
        return [
            {key: value for key, value in page.items() if key not in of_this_build}
            for page in report["pages"]
        ]

    serial = pages()
    assert ["broken", "page0", "page1", "page2", "stray"] == [page["docname"] for page in serial]
    assert 3 == sum(page["findings"] == [] for page in serial)
    assert serial == pages("-E", "-j", "2")
    assert serial == pages("-j", "2")
