"""Print the path of a Python interpreter of a given version, providing one if need be.

    python3 tools/find_python.py 3.14

Looks where interpreters are, then asks uv, then takes Debian's packages, unpacked into a cache
folder, ``$XDG_CACHE_HOME/workercheck`` or ``~/.cache/workercheck``. Whatever it prints has been
run. The path goes to standard output, all else to standard error.

Standard library only; runs on Python 3.9 and later.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import bootstrap
import debian
from bootstrap import say

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a documentation build needs and a broken or half-built interpreter lacks.
PROBE = "import ctypes, sqlite3, ssl, sys; print('%d.%d' % sys.version_info[:2])"
PROBE_SECONDS = 60

# Since glibc 2.34 these are empty, but wheels still ask for them, and a wheel with a RUNPATH of
# its own would find the system's, which do not fit our C library. Loaded first, ours are taken.
MERGED_INTO_LIBC = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1")


class PythonNotFoundError(RuntimeError):
    """No interpreter was found or provided; the message lists what was tried."""


def flaw(python: str | Path, version: str) -> str:
    """Return why `python` is not a working interpreter of `version`; empty where it is one."""
    try:
        run = subprocess.run(
            [str(python), "-I", "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if run.returncode:
        lines = run.stderr.strip().splitlines()
        return f"exit status {run.returncode}" + (f", {lines[-1]}" if lines else "")
    found = run.stdout.strip()
    return "" if found == version else f"is Python {found}"


def cache_folder(version: str) -> Path:
    """Return the folder of an interpreter of `version` that we provide, there or not."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "workercheck" / f"python-{version}-{os.uname().machine}"


def installed(version: str) -> Iterator[Path]:
    """Yield the files that may be an interpreter of `version`, the likeliest first."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        # Not a virtual environment's: it may be gone tomorrow.
        yield Path(getattr(sys, "_base_executable", sys.executable))
    names = (f"python{version}", "python3", "python")
    folders = [Path(entry) for entry in os.get_exec_path() if entry]
    folders += sorted(Path.home().glob(f".pyenv/versions/{version}*/bin"), reverse=True)
    for name in names:
        for folder in folders:
            if os.access(folder / name, os.X_OK):
                yield folder / name
    provided = cache_folder(version) / "usr" / "bin" / f"python{version}"
    if provided.exists():
        yield provided


def from_uv(version: str) -> Path:
    """Return the interpreter that uv knows of, or else downloads.

    Raises
    ------
    PythonNotFoundError
        Where uv has none and cannot download one.
    """
    uv = bootstrap.tool("uv")
    # Where there is no network, uv's usual three retries only cost time.
    environment = {**os.environ, **bootstrap.certificates(), "UV_HTTP_RETRIES": "1"}
    find = [uv, "python", "find", "--no-project", "--system", "--no-python-downloads", version]
    for _ in ("what is there", "what was downloaded"):
        found = subprocess.run(find, capture_output=True, text=True, env=environment)
        if found.returncode == 0:
            return Path(found.stdout.strip())
        say(f"asking uv to download Python {version}")
        install = subprocess.run(
            [uv, "python", "install", "--no-bin", version],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
        )
        if install.returncode:
            # The first line says what failed, the last one why.
            lines = install.stderr.strip().splitlines() or [""]
            raise PythonNotFoundError(" ... ".join(line.strip() for line in (lines[0], lines[-1])))
    raise PythonNotFoundError("uv downloaded it and then did not find it")


def relocate(root: Path, home: Path, version: str) -> None:
    """Make the interpreter unpacked in `root` run, once `root` is renamed to `home`.

    Its loader and its C library are the ones in `home`, not the system's older ones.

    Raises
    ------
    OSError, subprocess.CalledProcessError
        Where patchelf cannot be run or fails.
    StopIteration
        Where the packages lack a loader or a C library.
    """
    patchelf = bootstrap.tool("patchelf")
    python = str(root / "usr" / "bin" / f"python{version}")
    asked = subprocess.run(
        [patchelf, "--print-interpreter", python], check=True, capture_output=True, text=True
    )
    libraries = next(root.glob("usr/lib/*/libc.so.6")).parent
    loader = next(root.glob(f"usr/lib/**/{Path(asked.stdout.strip()).name}"))
    at_home = home / libraries.relative_to(root)
    needed = [word for name in MERGED_INTO_LIBC for word in ("--add-needed", name)]
    subprocess.run(
        [
            *(patchelf, "--set-interpreter", str(home / loader.relative_to(root))),
            *("--force-rpath", "--set-rpath", str(at_home), *needed, python),
        ],
        check=True,
    )


def from_debian(version: str) -> Path:
    """Return an interpreter unpacked from Debian's packages into the cache folder.

    Raises
    ------
    PythonNotFoundError
        Where there are no such packages, or what they hold does not run.
    """
    home = cache_folder(version)
    python = home / "usr" / "bin" / f"python{version}"
    suites = debian.newest_suites()
    home.parent.mkdir(parents=True, exist_ok=True)
    lock = home.with_name(f"{home.name}.lock")
    lock.touch()
    part = home.with_name(f"{home.name}.part")
    with bootstrap.alone(lock):
        if python.exists() and not flaw(python, version):
            return python
        say(f"taking Python {version} from Debian ({', '.join(suites)}), about 20 MB, to {home}")
        # Of a run that was interrupted, or of one whose result no longer runs.
        for left in (part, home):
            shutil.rmtree(left, ignore_errors=True)
        # Wheels with C++ in them take the system's libstdc++.
        names = [f"python{version}", "libstdc++6"]
        debian.unpack(names, part, suites=suites, dependencies=True)
        relocate(part, home, version)
        part.rename(home)
        # As the packages do once they are installed; else every start compiles what it imports,
        # where PYTHONDONTWRITEBYTECODE is set. Only speed depends on it.
        library = str(home / "usr" / "lib" / f"python{version}")
        subprocess.run([str(python), "-m", "compileall", "-q", "-j", "0", library], check=False)
    wrong = flaw(python, version)
    if wrong:
        raise PythonNotFoundError(f"{python}: {wrong}")
    say(f"Python {version} is ready")
    return python


def find(version: str) -> Path:
    """Return the path of a working interpreter of `version`, such as ``3.14``.

    Raises
    ------
    PythonNotFoundError
        Where none was found and none could be provided.
    """
    tried: list[str] = []
    for python in installed(version):
        wrong = flaw(python, version)
        if not wrong:
            return python
        tried.append(f"{python}: {wrong}")
    for provide in (from_uv, from_debian):
        try:
            python = provide(version)
        except (RuntimeError, OSError, StopIteration, subprocess.SubprocessError) as error:
            wrong = str(error) or "the packages are incomplete"
            say(f"{provide.__name__.replace('_', ' ')}: {wrong}")
        else:
            wrong = flaw(python, version)
            if not wrong:
                return python
        tried.append(f"{provide.__name__.replace('_', ' ')}: {wrong}")
    lines = "".join(f"\n  {line}" for line in tried)
    raise PythonNotFoundError(
        f"no Python {version}. Tried python{version}, python3 and python on PATH and in"
        f" ~/.pyenv/versions, {cache_folder(version)}, and:{lines}\n"
        f"Install Python {version} so that `python{version}` is on PATH, and try again."
    )


def main(arguments: list[str]) -> int:
    """Print the interpreter of the version that `arguments` names; return the exit status."""
    if len(arguments) != 1 or not re.fullmatch(r"\d+\.\d+", arguments[0]):
        say("usage: python3 tools/find_python.py X.Y")
        return 2
    try:
        print(find(arguments[0]))
    except PythonNotFoundError as error:
        say(f"find_python: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
