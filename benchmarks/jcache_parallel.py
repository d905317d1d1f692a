"""Execute a site's pages with jupyter-cache's own parallel executor, for Sphinx to render."""

from __future__ import annotations

import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor


def main(site: Path, folder: Path) -> int:
    """Execute the pages that the cache does not hold; 1 if one could not be."""
    cache = get_cache(str(folder))
    reader = {"name": "myst_nb_md", "type": "plugin"}
    for page in sorted(site.glob("*.md")):
        if "{code-cell}" in page.read_text("utf-8"):
            cache.add_nb_to_project(str(page), read_data=reader)
    result = load_executor("local-parallel", cache).run_and_cache(timeout=600, allow_errors=True)
    for name in result.succeeded:
        print(f"Executing: {name}")
    for name in [*result.excepted, *result.errored]:
        print(f"not executed: {name}", file=sys.stderr)
    return 1 if result.excepted or result.errored else 0


if __name__ == "__main__":
    # The executor's pool imports this file in its workers.
    raise SystemExit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2])))
