"""jupyter-cache, one folder for each environment; a page counts only with its evidence."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import importlib.metadata
import io
import json
import multiprocessing
import platform
import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from workercheck import evidence as ev
from workercheck.execute import Run
from workercheck.pages import Page

_EVIDENCE = Path("workercheck.jsonl")


@dc.dataclass(frozen=True, slots=True)
class Environment:
    """What a page's outputs depend on, besides the page."""

    python: str
    start_method: str
    """The default start method of `multiprocessing`."""
    packages: dict[str, str]
    """Every installed distribution, with its version."""
    key: str
    """Hash over all of it, the platform, the interpreter and this check: 16 hex digits."""


def environment() -> Environment:
    """Describe the interpreter that runs this, which is the one that native kernels run in."""
    packages = {
        name.lower().replace("_", "-"): dist.version
        for dist in importlib.metadata.distributions()
        if (name := dist.metadata["Name"])
    }
    start_method = multiprocessing.get_all_start_methods()[0]
    here = sorted(Path(__file__).parent.glob("*.py"))
    parts = [
        sys.version,
        sys.executable,
        platform.platform(),
        start_method,
        sorted(packages.items()),
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in here],
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return Environment(platform.python_version(), start_method, dict(sorted(packages.items())), key)


class PageCache:
    """Executed pages and their evidence.

    Parameters
    ----------
    folder
        Where the caches of all environments are. Made when it is needed.
    key
        The environment's key, the name of the folder within it.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / key
        self._cache = get_cache(str(self.path))

    def load(self, page: Page) -> tuple[list[ev.Event], float] | None:
        """Return the evidence and the seconds of the page's cached run, None without a good one.

        Cached runs of a kernel in another environment than ours do not count: nothing tells
        what is installed there.
        """
        if page.force or not _is_native(page.kernel_name):
            return None
        try:
            record = self._cache.match_cache_notebook(page.notebook)
            with self._cache.cache_artefacts_temppath(record.pk) as artefacts:
                events = ev.loads((artefacts / _EVIDENCE).read_text("utf-8"))
            self._cache.get_cache_bundle(record.pk)
            seconds = float(record.data["execution_seconds"])
        except (KeyError, OSError, TypeError, ValueError):
            return None
        whole = any(isinstance(e, ev.Finished) for e in events)
        return (events, seconds) if whole and _modules_unchanged(events) else None

    def store(self, run: Run) -> None:
        """Keep a run for myst-nb to render from, whatever came of it; see `discard`."""
        evidence = "".join(ev.dumps(event) + "\n" for event in run.events)
        self._cache.cache_notebook_bundle(
            CacheBundleIn(
                run.notebook,
                str(run.page.path),
                data={"execution_seconds": run.seconds},
                # Iterated over only, so that no file has to be written first.
                artifacts=[(_EVIDENCE, io.BytesIO(evidence.encode()))],  # type: ignore[arg-type]
            ),
            check_validity=False,
            overwrite=True,
        )

    def discard(self, page: Page) -> None:
        """Forget a page's run."""
        try:
            self._cache.remove_cache(self._cache.match_cache_notebook(page.notebook).pk)
        except KeyError:
            return


def _is_native(kernel_name: str) -> bool:
    try:
        spec = KernelSpecManager().get_kernel_spec(kernel_name)
    except NoSuchKernel:
        return False
    # jupyter_client runs "python" as sys.executable.
    return bool(spec.argv) and spec.argv[0] in (
        "python",
        f"python{sys.version_info[0]}",
        f"python{sys.version_info[0]}.{sys.version_info[1]}",
        sys.executable,
    )


def _modules_unchanged(events: list[ev.Event]) -> bool:
    for event in events:
        if isinstance(event, ev.Modules):
            for path, digest in event.files.items():
                try:
                    if hashlib.sha256(Path(path).read_bytes()).hexdigest() != digest:
                        return False
                except OSError:
                    return False
    return True
