"""The key of an environment: by the content of what is installed, and on any machine the same."""

from __future__ import annotations

import base64
import dataclasses as dc
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest import ROOT

PRINT_KEY = """
import pathlib, sys
sys.path.append(sys.argv[2])
from workercheck.run.environment import environment
print(environment(pathlib.Path(sys.argv[1])).key)
"""
CODE = {"numbers_of/__init__.py": "ONE = 1\n", "numbers_of/table.txt": "1 2 3\n"}


@dc.dataclass
class Project:
    """A project with an environment of its own, and its pages in ``docs``."""

    root: Path

    @property
    def python(self) -> Path:
        return self.root / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"

    @property
    def site(self) -> Path:
        (found,) = (self.root / ".venv").rglob("site-packages")
        return found

    @property
    def package(self) -> Path:
        return self.site / "numbers_of"

    def key(self, **variables: str) -> str:
        """Return the key that a build in this environment has."""
        done = subprocess.run(
            [self.python, "-c", PRINT_KEY, self.root / "docs", ROOT / "tools"],
            env=os.environ | {"PYTHONPATH": ""} | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def install(self, files: Mapping[str, str] = CODE, version: str = "1.0") -> None:
        """Install a package as pip does: its record is written last."""
        shutil.rmtree(self.package, ignore_errors=True)
        info = f"numbers_of-{version}.dist-info"
        shutil.rmtree(self.site / info, ignore_errors=True)
        metadata = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: numbers_of\nVersion: {version}\n"
        }
        origin = {
            f"{info}/INSTALLER": "pip\n",
            f"{info}/direct_url.json": f'{{"url": "file://{self.root}", "dir_info": {{}}}}',
        }
        record = [f"{info}/RECORD,,", "../../../bin/numbers,sha256=made-anew-everywhere,7"]
        for name, text in {**files, **metadata, **origin}.items():
            file = self.site / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            record.append(f"{name},sha256={digest.decode().rstrip('=')},{len(text)}")
        (self.site / info / "RECORD").write_text("\n".join(record) + "\n")


def make(root: Path) -> Project:
    """Make a project with a package that is installed, and its own that is only linked."""
    (root / "docs").mkdir(parents=True)
    (root / "src" / "own").mkdir(parents=True)
    venv.create(root / ".venv", symlinks=os.name != "nt")
    project = Project(root)
    project.install()
    (project.site / "_own.pth").write_text(f"{root / 'src'}\n")
    (project.site / "__editable___own_finder.py").write_text(
        f"MAPPING: dict[str, str] = {{'own': '{root / 'src' / 'own'}'}}\n"
    )
    (project.site / "alone.py").write_text("value = 1\n")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make(tmp_path / "project")


def test_same_environment_under_another_path_has_the_same_key(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "and" / "two")
    assert one.key() == two.key()
    # Where files are imported from counts by where it is from the pages.
    keys = [p.key(PYTHONPATH=str(p.root / "lib")) for p in (one, two)]
    assert keys[0] == keys[1] != one.key()


def test_how_and_when_something_was_installed_does_not_matter(project: Project) -> None:
    key = project.key()
    project.install()
    (next(project.site.glob("*.dist-info")) / "INSTALLER").write_text("uv")
    cache = project.package / "__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-314.pyc").write_bytes(b"compiled")
    for file in project.package.iterdir():  # unpacked again, with the time of now
        os.utime(file)
    assert key == project.key()


def append(path: Path) -> None:
    path.write_text(path.read_text() + "# changed\n")


def replace_by_same_size(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "2"))


CHANGES: dict[str, Callable[[Project], object]] = {
    "same version built anew": lambda p: p.install(CODE | {"numbers_of/__init__.py": "ONE = 2\n"}),
    "its data": lambda p: p.install(CODE | {"numbers_of/table.txt": "1 2 4\n"}),
    "another version": lambda p: p.install(version="1.1"),
    "edited where it is installed": lambda p: append(p.package / "__init__.py"),
    "edited without a change of size": lambda p: replace_by_same_size(p.package / "__init__.py"),
    "removed where it is installed": lambda p: (p.package / "table.txt").unlink(),
    "put among what is installed": lambda p: (p.package / "more.py").write_text("more = 1\n"),
    "a module that no package has": lambda p: replace_by_same_size(p.site / "alone.py"),
    "linked to another folder": lambda p: (p.site / "_own.pth").write_text(f"{p.root}/copy\n"),
    "found in another folder": lambda p: (p.site / "__editable___own_finder.py").write_text(
        f"MAPPING = {{'own': '{p.root}/copy'}}\n"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_content_is_another_key(project: Project, change: str) -> None:
    key = project.key()
    assert key == project.key()
    CHANGES[change](project)
    assert key != project.key()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_change_of_a_package_that_is_a_link_is_another_key(project: Project) -> None:
    (project.root / "src" / "own" / "part.py").write_text("value = 1\n")
    (project.site / "own").symlink_to(project.root / "src" / "own")
    key = project.key()
    append(project.root / "src" / "own" / "part.py")
    assert key != project.key()


def test_without_records_the_content_tells(project: Project) -> None:
    """As Debian's packages are installed."""
    for record in project.site.glob("*.dist-info/RECORD"):
        record.unlink()
    key = project.key()
    for file in project.package.iterdir():  # unpacked again, with the time of now
        os.utime(file)
    assert key == project.key()
    replace_by_same_size(project.package / "__init__.py")
    assert key != project.key()


@pytest.mark.parametrize(
    ("what", "counts"),
    [
        ("libc_ver=lambda: ('glibc', '1.0')", True),
        ("machine=lambda: 'riscv64'", True),
        ("release=lambda: '1.0', version=lambda: '#1', node=lambda: 'another'", False),
    ],
)
def test_library_of_c_and_processor_count_and_the_kernel_of_the_system_does_not(
    project: Project, what: str, counts: bool
) -> None:
    startup = project.root / "startup"
    startup.mkdir()
    key = project.key(PYTHONPATH=str(startup))
    # Another machine, as its interpreter would tell of it.
    text = f"import platform\nvars(platform).update({what})\n"
    (startup / "sitecustomize.py").write_text(text)
    assert counts == (key != project.key(PYTHONPATH=str(startup)))
