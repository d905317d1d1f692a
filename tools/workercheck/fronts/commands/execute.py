"""``workercheck execute``: run the pages of a Sphinx project into a store, and judge them."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace, patch_docutils

from workercheck.fronts.commands import output
from workercheck.fronts.sphinx import domain
from workercheck.fronts.sphinx.execution import Execution
from workercheck.fronts.sphinx.site_report import SiteReport
from workercheck.report.record import Report, Shard

if TYPE_CHECKING:
    from workercheck.run.over_dask import Cluster


def main(argv: Sequence[str]) -> int:
    """Execute a project's pages, or a part of them.

    Returns
    -------
    int
        0 clean, 1 findings, 2 evidence is missing.
    """
    parser = argparse.ArgumentParser(
        prog="workercheck execute",
        description="Execute the pages of a Sphinx project whose conf.py has the extension "
        "workercheck, without rendering them. Runs that pass are kept in a folder, where a build "
        "with workercheck_store = DIR finds them.",
        epilog="exit status: 0 no findings, 1 findings, 2 evidence is missing",
    )
    parser.add_argument("sourcedir", type=Path, help="the folder with conf.py")
    output.add_store(parser)
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="execute the I-th of N parts of the pages, which take about the same time",
    )
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="how many pages run at once"
    )
    parser.add_argument(
        "--dask",
        default="",
        metavar="ADDRESS",
        help="execute the pages on the workers of the Dask cluster with this scheduler",
    )
    output.add_options(parser)
    options = parser.parse_args(argv)
    try:
        found = _execute(options)
    except SphinxError as exc:
        print(f"workercheck: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("workercheck: interrupted, and every kernel has been ended", file=sys.stderr)
        return 2
    if not output.tell(found, options.format, options.report):
        return 2
    # A shard may have none: there may be fewer pages than shards.
    if not any(page.executed for page in found.pages) and (found.pages or found.shard is None):
        print(
            "workercheck: no verdict: no page was executed, so nothing was checked",
            file=sys.stderr,
        )
        return 2
    return 1 if found.verdict == "fail" else 0


def _execute(options: argparse.Namespace) -> Report:
    source, shard = options.sourcedir, options.shard
    overrides = {"workercheck_store": str(options.store.absolute())}
    if options.jobs:
        overrides["workercheck_jobs"] = options.jobs
    with (
        tempfile.TemporaryDirectory(prefix="workercheck-") as folder,
        _cluster(options.dask, source.resolve()) as cluster,
        patch_docutils(source),
        docutils_namespace(),
    ):
        # The standard output is the report's: it may be for a machine.
        app = Sphinx(
            source,
            source,
            Path(folder, "html"),
            Path(folder, "doctrees"),
            "html",
            overrides,
            status=sys.stderr,
            warning=sys.stderr,
            freshenv=True,
        )
        if "workercheck" not in app.extensions:
            raise SphinxError(f"{source / 'conf.py'}: workercheck is not in the extensions.")
        if app.statuscode != 0:
            raise SphinxError(f"{source / 'conf.py'}: it has settings that cannot be obeyed.")
        known = domain.of(app.env).environment
        execution = Execution(app, known.key)
        app.env.find_files(app.config, app.builder)
        if cluster is not None:
            cluster.check(known)
        docnames = execution.execute(sorted(app.env.found_docs), shard or (1, 1), cluster)
        found = SiteReport(app, known, execution.records).whole(None)
        if shard is not None:
            found.shard = Shard(shard[0], shard[1], docnames)
        return found


@contextlib.contextmanager
def _cluster(address: str, base: Path) -> Iterator[Cluster | None]:
    if not address:
        yield None
        return
    # Only here: Dask need not be installed.
    try:
        from workercheck.run import over_dask
    except ModuleNotFoundError as exc:
        raise SphinxError(f"--dask needs {exc.name}: pip install distributed") from exc
    try:
        with contextlib.closing(over_dask.Cluster(address, base)) as cluster:
            yield cluster
    except over_dask.ClusterError as exc:
        raise SphinxError(str(exc)) from exc


def _shard(word: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", word)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{word!r} is no shard; write the second of four as 2/4")
    return int(match[1]), int(match[2])
