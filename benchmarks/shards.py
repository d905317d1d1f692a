"""Execute a site's pages in shards, all at once, each as on a machine of its own: in a copy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

JOBS = "4"
"""How many pages each machine runs at once."""


def main(site: Path, folder: Path, machines: int) -> int:
    """Execute each page in one of the shards; 1 if a page failed."""
    running = []
    for number in range(1, machines + 1):
        place = folder / f"machine{number}"
        shutil.copytree(site, place / "docs")
        command = [sys.executable, "-m", "workercheck", "execute", "docs", "--store", "store"]
        shard = ["--shard", f"{number}/{machines}", "--jobs", JOBS]
        running.append(subprocess.Popen([*command, *shard], cwd=place))
    return max(process.wait() for process in running)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
