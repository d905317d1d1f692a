"""The environments in which readers run the pages, one for each Python."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bootstrap

from readers.record import ReadersError

LOCK = Path(__file__).parents[2] / "requirements" / "readers.txt"

START_METHODS = ("fork", "forkserver", "spawn")

START_METHOD = "READERS_START_METHOD"
"""The variable that names the start method of a run."""

# Which of a reader's packages the table names.
NAMED = ("adaptive", "loky", "cloudpickle", "ipykernel", "numpy", "holoviews", "distributed")

START_METHOD_FILE = "readers_start_method.pth"
SET_START_METHOD = (
    f'import os; os.environ.get("{START_METHOD}") and exec("import multiprocessing.context as c; '
    f"c._default_context._default_context = c._concrete_contexts[os.environ['{START_METHOD}']]\")\n"
)

_NO_WHEEL = re.compile(r"\b([\w.-]+)==\S+ has no (?:usable )?wheels")


@dc.dataclass(frozen=True)
class Environment:
    """A reader's environment of one Python."""

    version: str
    folder: Path
    key: str
    facts: Mapping[str, Any]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


def environment(version: str, folder: Path) -> Environment:
    """Prepare and describe the environment in `folder`.

    Raises
    ------
    ReadersError
        If its interpreter does not run.
    """
    code = (
        "import importlib.metadata as m, json, platform, sysconfig\n"
        "packages = {d.name: d.version for d in m.distributions()}\n"
        "print(json.dumps([platform.python_version(), platform.system(), platform.machine(),"
        " sysconfig.get_path('purelib'), packages]))"
    )
    python = folder / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ReadersError(f"{python} does not run: {done.stderr.strip()}")
    full, system, machine, site_packages, packages = json.loads(done.stdout)
    Path(site_packages, START_METHOD_FILE).write_text(SET_START_METHOD)
    digest = hashlib.sha256(json.dumps([full, system, machine, sorted(packages.items())]).encode())
    facts = {
        "python": full,
        "platform": f"{system} {machine}",
        "packages": {name: packages[name] for name in NAMED if name in packages},
        "without wheel": without_wheel(python),
    }
    return Environment(version, folder, f"{full}-{digest.hexdigest()[:8]}", facts)


def without_wheel(python: Path) -> list[str]:
    """Return the packages of the lock that this Python has to build from source."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        while True:
            done = subprocess.run(
                [
                    *(bootstrap.tool("uv"), "pip", "install", "--quiet", "--dry-run"),
                    *("--python", str(python), "--target", folder, "--requirements", str(LOCK)),
                    *("--only-binary", ":all:"),
                    *itertools.chain.from_iterable(("--no-binary", name) for name in found),
                ],
                capture_output=True,
                text=True,
            )
            match = _NO_WHEEL.search(done.stderr) if done.returncode else None
            if match is None or match[1] in found:
                return found
            found.append(match[1])
