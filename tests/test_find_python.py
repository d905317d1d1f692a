"""Tests of tools/find_python.py and tools/debian.py: only what runs is ever printed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

import bootstrap  # noqa: E402
import debian  # noqa: E402
import find_python  # noqa: E402

SCRIPT = ROOT / "tools" / "find_python.py"
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
needs_debian = pytest.mark.skipif(
    debian.os_release().get("ID") not in debian.NEWEST, reason="neither Debian nor Ubuntu"
)


def script(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    file.chmod(0o755)
    return file


def working(folder):
    """Put an interpreter of this version that works into `folder`."""
    return script(folder, f"python{THIS}", f'#!/bin/sh\nexec {sys.executable} "$@"\n')


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without an interpreter, a download or apt; return the folder on its `PATH`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(find_python.sys, "_base_executable", "/nonexistent")
    uv = script(tmp_path / "uv", "uv", "#!/bin/sh\necho 'error: no network' >&2\nexit 1\n")
    monkeypatch.setattr(bootstrap, "tool", lambda name: str(uv))
    return folder


def test_prints_the_path_and_nothing_else():
    run = subprocess.run(
        [sys.executable, str(SCRIPT), THIS], capture_output=True, text=True, check=True
    )
    (line,) = run.stdout.splitlines()
    assert find_python.flaw(line, THIS) == ""


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_runs_on(version):
    """The script itself, on each interpreter that is here already."""
    here = [p for p in find_python.installed(version) if not find_python.flaw(p, version)]
    if not here:
        pytest.skip(f"no Python {version} here")
    run = subprocess.run(
        [str(here[0]), str(SCRIPT), version], capture_output=True, text=True, check=True
    )
    assert find_python.flaw(run.stdout.strip(), version) == ""


@pytest.mark.parametrize("arguments", [[], ["3"], ["3.14.1"], ["3.14", "3.15"], ["--help"]])
def test_anything_but_one_version_is_a_usage_error(arguments, capsys):
    assert find_python.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "usage" in printed.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho 'not installed' >&2\nexit 127\n", "exit status 127, not installed"),
        ("#!/bin/sh\necho 2.7\n", "is Python 2.7"),
        ("#!/nonexistent/python\n", "No such file"),
    ],
)
def test_broken_interpreter_is_passed_over(nowhere, monkeypatch, text, reason):
    broken = script(nowhere / "first", f"python{THIS}", text)
    assert reason in find_python.flaw(broken, THIS)
    works = working(nowhere / "second")
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{works.parent}")
    assert find_python.find(THIS) == works


def test_pyenv_is_looked_into(nowhere):
    works = working(Path.home() / ".pyenv" / "versions" / f"{THIS}.1" / "bin")
    assert find_python.find(THIS) == works


def test_provided_interpreter_is_found_before_any_download(nowhere, monkeypatch):
    works = working(find_python.cache_folder(THIS) / "usr" / "bin")
    monkeypatch.setattr(find_python, "from_uv", lambda version: pytest.fail("asked uv"))
    assert find_python.find(THIS) == works


def test_uv_is_asked_what_it_has(nowhere, monkeypatch, tmp_path):
    works = working(tmp_path / "managed")
    uv = script(tmp_path / "uv", "uv", f"#!/bin/sh\necho {works}\n")
    monkeypatch.setattr(bootstrap, "tool", lambda name: str(uv))
    assert find_python.find(THIS) == works


def test_nothing_in_reach_says_what_was_tried(nowhere, capfd):
    broken = script(nowhere, "python3.99", "#!/bin/sh\nexit 127\n")
    assert find_python.main(["3.99"]) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    for words in (
        f"{broken}: exit status 127",
        "from uv: error: no network",
        "from debian: ",
        str(find_python.cache_folder("3.99")),
        "Install Python 3.99",
    ):
        assert words in printed.err


@pytest.fixture
def packages(nowhere, monkeypatch):
    """Stand in for apt with packages that run; return what it was asked for."""
    asked = []

    def unpack(names, into, **options):
        asked.append(list(names))
        working(into / "usr" / "bin")

    monkeypatch.setattr(debian, "newest_suites", lambda: ("sid",))
    monkeypatch.setattr(debian, "unpack", unpack)
    monkeypatch.setattr(find_python, "relocate", lambda root, home, version: None)
    return asked


def test_half_unpacked_folder_is_replaced(packages):
    home = find_python.cache_folder(THIS)
    script(home / "usr" / "bin", f"python{THIS}", "#!/bin/sh\nexit 1\n")
    python = find_python.find(THIS)
    assert python == home / "usr" / "bin" / f"python{THIS}"
    assert find_python.flaw(python, THIS) == ""
    assert packages == [[f"python{THIS}", "libstdc++6"]]


def test_cut_off_download_is_not_used_and_begun_anew(packages, monkeypatch):
    def cut_off(names, into, **options):
        script(into / "usr" / "lib", "half", "")
        working(into / "usr" / "bin")
        raise debian.DebianError("cut off")

    whole = debian.unpack
    monkeypatch.setattr(debian, "unpack", cut_off)
    with pytest.raises(find_python.PythonNotFoundError, match="from debian: cut off"):
        find_python.find(THIS)
    home = find_python.cache_folder(THIS)
    assert not home.exists()
    monkeypatch.setattr(debian, "unpack", whole)
    assert find_python.find(THIS).is_relative_to(home)
    assert not (home / "usr" / "lib" / "half").exists()


@pytest.mark.slow
@needs_debian
def test_debian_provides_an_interpreter_to_two_at_once(tmp_path):
    """For real: through apt, twice at the same time, and wheels run on it."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", "import find_python as f; print(f.from_debian('3.14'))"],
            cwd=ROOT / "tools",
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [run.communicate(timeout=250) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    (python,) = {out.strip() for out, _ in printed}
    assert Path(python).is_relative_to(tmp_path)
    assert sum("taking Python" in err for _, err in printed) == 1
    assert find_python.flaw(python, "3.14") == ""

    uv, venv = bootstrap.tool("uv"), tmp_path / "venv"
    locked = (ROOT / "requirements" / "docs.txt").read_text().split()
    (numpy,) = {word for word in locked if word.startswith("numpy==")}
    subprocess.run([uv, "venv", "--quiet", "--python", python, str(venv)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(venv), numpy], check=True)
    subprocess.run([str(venv / "bin" / "python"), "-c", "import numpy.linalg"], check=True)


ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.example/apt bookworm main
deb http://mirror.example/debian bookworm main contrib  # the mirror
deb-src http://mirror.example/debian bookworm main
"""

DEB822 = """\
# Debian
Types: deb deb-src
URIs: http://mirror.example/debian
# the old one: bullseye
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 xyz

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def test_both_formats_of_sources_are_read(tmp_path):
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "debian.sources.save").write_text(DEB822)
    vendor, mirror = ("https://vendor.example/apt",), ("http://mirror.example/debian",)
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n xyz"
    assert debian.machine_sources(tmp_path) == [
        debian.Source(vendor, ("bookworm",), ("main",), "/usr/share/keyrings/vendor.gpg"),
        debian.Source(mirror, ("bookworm",), ("main", "contrib")),
        debian.Source(mirror, ("bookworm", "bookworm-updates"), ("main",), key),
    ]


def test_vendor_is_not_taken_for_the_distribution():
    vendor = debian.Source(("https://v",), ("bookworm",), ("main",), "/k/vendor.gpg")
    own = debian.Source(("http://m",), ("bookworm",), ("main",), "/k/debian-archive-keyring.gpg")
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    assert debian.archive([vendor, own], release) == own
    with pytest.raises(debian.DebianError, match="carries the component main of bookworm"):
        debian.archive([], release)


def test_other_distributions_are_told_so(monkeypatch, tmp_path):
    file = tmp_path / "os-release"
    file.write_text('ID=fedora\nNAME="Fedora Linux"\n')
    assert debian.os_release(file) == {"ID": "fedora", "NAME": "Fedora Linux"}
    monkeypatch.setattr(debian, "os_release", lambda: {"ID": "fedora"})
    with pytest.raises(debian.DebianError, match="runs fedora, not Debian or Ubuntu"):
        debian.newest_suites()


@needs_debian
def test_package_that_does_not_exist_is_an_error_and_the_system_stays(tmp_path, capfd):
    lists = Path("/var/lib/apt/lists")
    before = sorted(lists.glob("*"))
    with pytest.raises(debian.DebianError, match="apt-get exited with status 100"):
        debian.unpack(["no-such-package-here"], tmp_path / "root")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "no-such-package-here" in printed.err
    assert "unsandboxed" not in printed.err
    assert sorted(lists.glob("*")) == before
    assert not (tmp_path / "root").exists()


def test_machine_without_apt_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(debian.DebianError, match="no apt-get and no dpkg"):
        debian.unpack(["hello"], tmp_path)
