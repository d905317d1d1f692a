"""The doctor tries for real what it tells: in real kernels, with real workers and real faults."""

from __future__ import annotations

import importlib.metadata
import time
from pathlib import Path

import psutil
import pytest
from workercheck.fronts.commands import doctor
from workercheck.fronts.commands import main as cli

# Each costs some seconds.
TRIED = ("adaptive's default executor", "ProcessPoolExecutor, fork", "ProcessPoolExecutor, spawn")


def start_up(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every interpreter that starts from now on run `code` first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def only_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    first = doctor.trials()[:1]
    monkeypatch.setattr(doctor, "trials", lambda: first)


def descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.skipif(not doctor.installed("adaptive"), reason="adaptive is not installed")
def test_default_executor_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [trial for trial in doctor.trials() if trial.name in TRIED]
    monkeypatch.setattr(doctor, "trials", lambda: some)
    before = descendants()
    assert 0 == doctor.main([])
    assert descendants() <= before
    out = capsys.readouterr().out
    for name in ("adaptive", "loky", "cloudpickle", "numpy", "ipykernel"):
        assert f"| {name:12} | {importlib.metadata.version(name)} " in out
    rows = dict(
        [cell.strip() for cell in line.split("|")[1:3]]
        for line in out.splitlines()
        if line.startswith("|")
    )
    assert rows["adaptive's default executor"].startswith("yes")
    assert "loky" in rows["adaptive's default executor"]
    # What the other ways come to is known: a function's name means nothing in a fresh process.
    assert rows["ProcessPoolExecutor, fork"].startswith("yes")
    assert "NO" == rows["ProcessPoolExecutor, spawn"]
    assert "AttributeError" in out
    assert "(the default here)" in rows["start method"]
    assert out.rstrip().endswith("leave executor= out.")


def test_default_executor_that_does_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As adaptive 1.5.0 was, whose default executor was a process pool."""
    pytest.importorskip("adaptive")
    start_up(
        tmp_path,
        "import concurrent.futures, multiprocessing, sys\n"
        "if 'spawn_main' not in ' '.join(sys.orig_argv):\n"
        "    import loky\n"
        "    loky.get_reusable_executor = lambda *a, **k: concurrent.futures.ProcessPoolExecutor(\n"
        "        1, mp_context=multiprocessing.get_context('spawn'))\n",
        monkeypatch,
    )
    (tmp_path / "adaptive-1.5.0.dist-info").mkdir()
    (tmp_path / "adaptive-1.5.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: adaptive\nVersion: 1.5.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    only_the_default(monkeypatch)
    assert 1 == doctor.main([])
    out = capsys.readouterr().out
    assert "| adaptive's default executor | NO (concurrent.futures" in out
    assert "__main__.typed_here" in out
    assert "in the notebook: RuntimeError" in out
    assert "adaptive>=1.5.1" in out


@pytest.mark.skipif(not doctor.installed("loky"), reason="loky is not installed")
def test_worker_that_hangs_is_told_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_up(
        tmp_path,
        "import sys, time\n"
        "if 'popen_loky_posix' in ' '.join(sys.orig_argv):\n"
        "    time.sleep(3600)\n",
        monkeypatch,
    )
    trial = next(trial for trial in doctor.trials() if trial.name == "loky")
    monkeypatch.setattr(doctor, "trials", lambda: [doctor.dc.replace(trial, matters=True)])
    before = descendants()
    started = time.monotonic()
    assert 1 == doctor.main(["--timeout", "8"])
    assert time.monotonic() - started < 60
    assert descendants() <= before
    sleeping = [
        process.pid
        for process in psutil.process_iter()
        if process.pid not in before
        and "popen_loky_posix" in " ".join(_cmdline(process))
        and str(tmp_path) in _environ(process).get("PYTHONPATH", "")
    ]
    assert [] == sleeping
    out = capsys.readouterr().out
    assert "| loky         | NO" in out
    assert "hangs: no answer within 8 s" in out
    assert "start-up file" in out


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def test_without_adaptive_loky_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"loky": "3.7.0"}
    monkeypatch.setattr(doctor, "installed", there.get)
    assert ["loky"] == [trial.name for trial in doctor.trials() if trial.matters]
    outcomes = [doctor.Outcome(trial, True, 1.0) for trial in doctor.trials()]
    assert "| adaptive " in doctor.report([], outcomes)
    assert "adaptive is not installed. loky, its default executor, works" in doctor.report(
        [], outcomes
    ).replace("**", "")


def test_without_both_nothing_is_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    monkeypatch.setattr(doctor, "try_all", lambda trials, timeout: [])
    assert 0 == doctor.main([])
    assert "adaptive and loky are not installed" in capsys.readouterr().out
    assert not any(trial.matters for trial in doctor.trials())


def test_start_method_that_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.start_method().endswith("(the default here)")
    start_up(tmp_path, "import multiprocessing as m; m.set_start_method('spawn')\n", monkeypatch)
    assert doctor.start_method().startswith("spawn (changed at start-up: ")


def test_folder_called_doctor_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "doctor").mkdir()
    monkeypatch.chdir(tmp_path)
    assert 2 == cli.main(["./doctor"])
    assert "no report" in capsys.readouterr().err


def test_help_tells_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    assert "exit status: 0" in capsys.readouterr().out
