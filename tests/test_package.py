"""What would be uploaded: what it holds, how it installs, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import environments
import pytest
import workercheck
from conftest import ROOT

sys.path.append(str(ROOT / "tools"))

import bootstrap

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / PROJECT["readme"]).read_text()
BASE = getattr(sys, "_base_executable", sys.executable)
START_FILES = {"workercheck.pth", "workercheck.start"}

LOST = """
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        future = executor.submit(lambda: 1)
"""
FOUND = "lost.py:5: "


def build(source: Path, out: Path, *options: str) -> None:
    command = [bootstrap.tool("uv"), "build", "--quiet", "--no-build-isolation", *options]
    subprocess.run([*command, "--python", sys.executable, "--out-dir", out, source], check=True)


def copied(folder: Path) -> Path:
    """The sources alone, each written anew."""
    shutil.copytree(
        *(ROOT / "tools", folder / "tools"),
        ignore=shutil.ignore_patterns("__pycache__"),
        copy_function=shutil.copyfile,
    )
    for name in ("pyproject.toml", "LICENSE", ".gitignore"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel that is made of it, and a script that loses its work."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    (folder / "lost.py").write_text(LOST.lstrip())
    return folder


def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def package() -> set[str]:
    files = (file for file in (ROOT / "tools" / "workercheck").rglob("*") if file.is_file())
    return {
        file.relative_to(ROOT / "tools").as_posix()
        for file in files
        if file.parent.name != "__pycache__"
    }


def test_wheel_holds_the_package_and_its_start_files_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(wheel(dist)) as archive:
        members = set(archive.namelist())
    info = f"workercheck-{workercheck.__version__}.dist-info"
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert package() | START_FILES | {f"{info}/{name}" for name in about} == members
    assert "workercheck/py.typed" in members


def test_sdist_holds_what_a_wheel_is_made_of_and_nothing_else(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    tools = package() | START_FILES | {"README.md"}
    rest = {"pyproject.toml", "LICENSE", "PKG-INFO", ".gitignore"}
    assert {f"tools/{name}" for name in tools} | rest == members


def test_metadata_are_of_a_version_that_the_uploader_knows(dist: Path) -> None:
    with zipfile.ZipFile(wheel(dist)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        of_wheel = archive.read(name)
    with tarfile.open(*dist.glob("*.tar.gz")) as archive:
        (member,) = (member for member in archive if member.name.endswith("/PKG-INFO"))
        of_sdist = archive.extractfile(member).read()
    assert of_wheel.startswith(b"Metadata-Version: 2.4\n")
    assert of_sdist.startswith(b"Metadata-Version: 2.4\n")


def test_other_folder_and_other_times_give_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    build(copied(tmp_path / "source"), tmp_path / "again")
    build(ROOT, tmp_path / "straight", "--wheel")
    for file in dist.glob("workercheck-*"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert wheel(dist).read_bytes() == wheel(tmp_path / "straight").read_bytes()


def test_metadata_say_the_same_as_the_code_and_the_citation(dist: Path) -> None:
    assert PROJECT["version"] == workercheck.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {workercheck.__version__}\n" in citation
    assert f"license: {PROJECT['license']}\n" in citation
    with zipfile.ZipFile(wheel(dist)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(name).decode()
    assert set(re.findall(r"^Provides-Extra: (\w+)$", metadata, re.MULTILINE)) == {
        "notebooks",
        "pytest",
        "sphinx",
    }
    assert metadata.endswith(README)


def test_all_names_what_is_public() -> None:
    assert workercheck.__all__ == ["__version__", "setup"]


def run(
    folder: Path, python: str | Path, *words: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [python, *words],
        cwd=folder,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def watched(folder: Path, python: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words = ("-m", "workercheck", "run", "--", python, folder / "lost.py")
    return run(folder, python, *words, **variables)


def interpreter(environment: Path) -> Path:
    environments.empty(environment, sys.executable)
    return environment / "bin" / "python"


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != ".lock"}


def test_it_watches_where_it_is_installed_and_uninstalling_leaves_nothing(
    dist: Path, tmp_path: Path
) -> None:
    python = interpreter(tmp_path / "env")
    before = files(tmp_path)
    environments.install(tmp_path / "env", wheel(dist))
    done = watched(dist, python)
    assert (1, True) == (done.returncode, FOUND in done.stderr), done.stderr
    uninstall = [bootstrap.tool("uv"), "pip", "uninstall", "--quiet", "--python", python]
    subprocess.run([*uninstall, "workercheck", "psutil"], check=True)
    assert before == files(tmp_path)
    assert 0 == run(dist, python, dist / "lost.py").returncode


def test_it_watches_where_it_is_installed_to_be_edited(dist: Path, tmp_path: Path) -> None:
    source = copied(tmp_path / "source")
    python = interpreter(tmp_path / "env")
    environments.install(tmp_path / "env", "--editable", source)
    (source / "tools" / "workercheck" / "edited.py").touch()
    assert 0 == run(dist, python, "-c", "import workercheck.edited").returncode
    assert FOUND in watched(dist, python).stderr


def test_upgrading_leaves_nothing_of_the_older_one(dist: Path, tmp_path: Path) -> None:
    source = copied(tmp_path / "source")
    older = source / "pyproject.toml"
    older.write_text(older.read_text().replace('version = "', 'version = "0.0.', 1))
    (source / "tools" / "workercheck" / "gone.py").touch()
    build(source, tmp_path / "older", "--wheel")
    python = interpreter(tmp_path / "env")
    environments.install(tmp_path / "env", wheel(tmp_path / "older"))
    assert 0 == run(dist, python, "-c", "import workercheck.gone").returncode
    environments.install(tmp_path / "env", "--upgrade", wheel(dist))
    assert 1 == run(dist, python, "-c", "import workercheck.gone").returncode
    assert FOUND in watched(dist, python).stderr


def test_it_watches_from_the_user_site_and_through_system_site_packages(
    dist: Path, tmp_path: Path
) -> None:
    # uv knows no user site; its folders are those of a prefix.
    pip = [bootstrap.tool("uv"), "pip", "install", "--quiet", "--python", BASE]
    subprocess.run([*pip, "--prefix", tmp_path / "user", wheel(dist)], check=True)
    user = {"PYTHONUSERBASE": str(tmp_path / "user")}
    assert FOUND in watched(dist, BASE, **user).stderr
    outer = [bootstrap.tool("uv"), "venv", "--quiet", "--system-site-packages", "--python", BASE]
    subprocess.run([*outer, tmp_path / "env"], check=True)
    assert FOUND in watched(dist, tmp_path / "env" / "bin" / "python", **user).stderr


def test_folder_that_is_no_site_is_never_taken_for_watched(dist: Path, tmp_path: Path) -> None:
    """Python reads no start-up files in a folder on `PYTHONPATH`."""
    python = interpreter(tmp_path / "env")
    environments.install(tmp_path / "env", "--target", tmp_path / "target", wheel(dist))
    done = watched(dist, python, PYTHONPATH=str(tmp_path / "target"))
    assert 2 == done.returncode
    assert "Install workercheck in the environment" in done.stderr


def test_readme_leads_to_a_red_script(dist: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "env")
    environments.install(tmp_path / "env", wheel(dist))
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "areas.py").write_text(script)
    command, said = re.search(r"^\$ (.+)\n(.+)$", README, re.MULTILINE).groups()
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    assert 0 == run(tmp_path, python, "areas.py").returncode
    done = run(tmp_path, *command.split(), PATH=path)
    assert 1 == done.returncode
    assert done.stderr.startswith(said)
    assert "areas.py:5: " in done.stderr
    done = run(tmp_path, *re.search(r"`(workercheck lint areas.py)`", README)[1].split(), PATH=path)
    assert (1, True) == (done.returncode, "areas.py:5: " in done.stdout)


def test_readme_leads_to_a_red_page(tmp_path: Path) -> None:
    (page,) = re.findall(r"````md\n(.*?)````", README, re.DOTALL)
    (conf,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    command = re.search(r"`sphinx-build (docs html)` exits with 1", README)[1]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(page)
    (tmp_path / "docs" / "conf.py").write_text(conf)
    done = run(tmp_path, sys.executable, "-m", "sphinx", *command.split())
    # Before Python 3.14, a worker on Linux is a copy of the page.
    assert (sys.version_info >= (3, 14)) == done.returncode, done.stderr
    if done.returncode:
        assert "index.md:9: a worker could not unpickle __main__.area" in done.stderr
