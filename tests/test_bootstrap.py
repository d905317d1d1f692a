"""Tests of tools/bootstrap.py: what it brings, and that half of it never counts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

import bootstrap  # noqa: E402
import debian  # noqa: E402


@pytest.fixture
def tree(tmp_path):
    """A repository of its own, whose lock names nothing, so that it is brought in seconds."""
    for name in ("tools/bootstrap.py", "tools/debian.py"):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((ROOT / name).read_text())
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "bootstrap.txt").write_text("# nothing\n")
    return tmp_path


def started(tree):
    return subprocess.Popen(
        [sys.executable, str(tree / "tools" / "bootstrap.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def brought(tree):
    """Run the script; return its exit status, standard output and standard error."""
    process = started(tree)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def is_ready(tree):
    return bootstrap.ready(tree / ".tools", tree / "requirements" / "bootstrap.txt")


def test_second_run_has_nothing_to_do(tree):
    status, out, err = brought(tree)
    assert (status, out) == (0, ""), err
    assert "bringing" in err
    assert is_ready(tree)
    assert brought(tree) == (0, "", "")


def test_tools_that_run_themselves_are_brought_anew(tree):
    """As `.tools/bin/nox` does after a pull that has changed the lock."""
    made = [sys.executable, "-m", "venv", "--without-pip", str(tree / ".tools")]
    subprocess.run(made, check=True)
    own = str(tree / ".tools" / "bin" / "python")
    run = subprocess.run([own, str(tree / "tools" / "bootstrap.py")], capture_output=True)
    assert run.returncode == 0, run.stderr
    assert is_ready(tree)


@pytest.mark.parametrize("damage", ["no stamp", "other lock", "python gone", "folder moved"])
def test_unfinished_or_outdated_tools_are_not_ready(tree, damage):
    tools, lock = tree / ".tools", tree / "requirements" / "bootstrap.txt"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "python").touch()
    (tools / "stamp").write_text(bootstrap.stamp(tools, lock))
    assert bootstrap.ready(tools, lock)
    if damage == "no stamp":
        (tools / "stamp").unlink()
    elif damage == "other lock":
        lock.write_text("# something else\n")
    elif damage == "python gone":
        (tools / "bin" / "python").unlink()
    else:
        tools = tools.rename(tree / "elsewhere")
    assert not bootstrap.ready(tools, lock)


def test_interrupted_run_is_begun_anew(tree):
    process = started(tree)
    while not (tree / ".tools" / "pyvenv.cfg").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not is_ready(tree)
    assert brought(tree)[0] == 0
    assert is_ready(tree)


def test_two_runs_at_once_bring_it_once(tree):
    runs = [started(tree), started(tree)]
    errors = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert sum("bringing" in error for error in errors) == 1, errors
    assert is_ready(tree)


@pytest.mark.parametrize("hashes", [f" --hash=sha256:{'0' * 64}", ""], ids=["wrong", "none"])
def test_package_with_no_hash_or_a_wrong_one_is_refused(tree, hashes):
    (tree / "requirements" / "bootstrap.txt").write_text(f"iniconfig==2.0.0{hashes}\n")
    status, out, err = brought(tree)
    assert (status, out) == (1, "")
    assert "hash" in err.lower()
    assert "is not complete" in err
    assert not is_ready(tree)


def test_python_without_pip_takes_it_from_the_distribution(tree, monkeypatch, capfd):
    """The way of a bare Debian, whatever this machine's Python has."""
    if debian.os_release().get("ID") not in debian.NEWEST:
        pytest.skip("neither Debian nor Ubuntu")
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    bootstrap.bring(tree / ".tools", tree / "requirements" / "bootstrap.txt")
    assert is_ready(tree)
    assert not (tree / ".tools" / "bin" / "pip").exists()
    assert "unsandboxed" not in capfd.readouterr().err


def test_tool_on_path_is_used_where_nothing_was_brought(monkeypatch, tmp_path):
    uv = tmp_path / "uv"
    uv.touch(mode=0o755)
    monkeypatch.setattr(bootstrap, "ready", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.tool("uv") == str(uv)
    monkeypatch.setattr(bootstrap, "bring", lambda: None)
    assert bootstrap.tool("patchelf") == str(bootstrap.TOOLS / "bin" / "patchelf")
