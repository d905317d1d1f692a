"""Sphinx extension: the table of where the pages run, from docs/readers.json.

    ```{readers-table}
    ```

`nox -s readers` measures; nothing here is typed by hand.
"""

from __future__ import annotations

import collections
import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import programs
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PER_PYTHON = len(programs.FORMS) * len(programs.START_METHODS)
STALE = "\N{DAGGER}"
NONE = "\N{EN DASH}"


class ReadersTable(SphinxDirective):
    """Show what `nox -s readers` has measured."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return the tables, and what stands around them."""
        file = Path(self.env.srcdir).parent / "readers.json"
        self.env.note_dependency(str(file))
        self.env.note_reread()  # another page's change makes an entry here an old one
        known = {
            (program.docname, program.section): program
            for page in programs.all_programs(self.env.app)
            for program in (page, *page.sections())
        }
        data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": []}
        runs = [run for run in data["runs"] if (run["page"], run["section"]) in known]
        if not runs:
            return self.parse_text_to_nodes("No page has been run yet: run `nox -s readers`.")
        text = "\n".join(_text(runs, data["environments"], known))
        return self.parse_text_to_nodes(text)


def _text(
    runs: Sequence[dict[str, Any]],
    environments: dict[str, dict[str, Any]],
    known: dict[tuple[str, str], programs.Program],
) -> Iterable[str]:
    """Yield the tables as Markdown, line by line."""
    for run in runs:
        digests = known[run["page"], run["section"]].digests()
        run["stale"] = digests[run["form"]] != run["digest"]
    good = sum(run["outcome"] == "ok" for run in runs)
    explained = sum(run["outcome"] == "explained" for run in runs)
    seconds = [run["seconds"] for run in runs if run["outcome"] == "ok"]
    dates = sorted({run["date"] for run in runs})
    platforms = sorted({environments[run["environment"]]["platform"] for run in runs})
    yield (
        f"The program made {len(runs)} runs, {' to '.join(sorted({dates[0], dates[-1]}))},"
        f" on {' and '.join(platforms)}: {good} worked"
        + (f", {explained} could not work, as their pages say" if explained else "")
        + (f", {len(runs) - good - explained} failed" if len(runs) > good + explained else "")
        + "."
    )
    if seconds:
        yield (
            f"Half of the runs that worked took less than {statistics.median(seconds):.0f} s,"
            f" and the longest took {max(seconds):.0f} s."
        )
    notes: dict[tuple[str, ...], int] = {}
    pythons = sorted({run["python"] for run in runs}, key=lambda text: text.split(".")[1].zfill(3))
    pages = [run for run in runs if not run["section"]]
    sections = [run for run in runs if run["section"]]
    if pages:
        yield from ("", *_table("page", pages, pythons, known, notes))
    for page, group in itertools.groupby(sections, key=lambda run: run["page"]):
        title = _link(known[page, ""])
        yield from ("", f"Sections of {title}, each run by itself after the cells above them:", "")
        yield from _table("section", list(group), pythons, known, notes)
    yield ""
    yield f"✓ means {PER_PYTHON} runs that worked: two forms, each under three start methods."
    if any(run["stale"] for run in runs):
        yield f"{STALE} marks runs of an earlier version of the page's code."
    for key, number in notes.items():
        yield from ("", f"{number}. {key[1]}")
    yield from ("", "The runs used these versions:", "")
    yield from _environments(runs, environments, pythons)


def _table(
    head: str,
    runs: Sequence[dict[str, Any]],
    pythons: Sequence[str],
    known: dict[tuple[str, str], programs.Program],
    notes: dict[tuple[str, ...], int],
) -> Iterable[str]:
    yield f"| {head} | " + " | ".join(pythons) + " |"
    yield "|---|" + ":-:|" * len(pythons)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = collections.defaultdict(list)
    for run in runs:
        rows[run["page"], run["section"]].append(run)
    order = {key: position for position, key in enumerate(known)}
    for key in sorted(rows, key=order.__getitem__):
        program = known[key]
        cells = [
            _cell([run for run in rows[key] if run["python"] == python], program, rows[key], notes)
            for python in pythons
        ]
        name = _escape(program.section) if program.section else _link(program)
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(
    runs: Sequence[dict[str, Any]],
    program: programs.Program,
    all_runs: Sequence[dict[str, Any]],
    notes: dict[tuple[str, ...], int],
) -> str:
    if not runs:
        return NONE
    worked = sum(run["outcome"] == "ok" for run in runs)
    numbers = []
    for run in runs:
        if run["outcome"] != "ok":
            same = [
                other
                for other in all_runs
                if (other["outcome"], other["error"]) == (run["outcome"], run["error"])
            ]
            text = _note(program, run, same)
            key = (f"{program.docname}#{program.section}", text)
            numbers.append(notes.setdefault(key, len(notes) + 1))
    text = "✓" if worked == PER_PYTHON else f"{worked} of {len(runs)}"
    if any(run["stale"] for run in runs):
        text += STALE
    return text + "".join(f" ({number})" for number in sorted(set(numbers)))


def _note(program: programs.Program, run: dict[str, Any], same: Sequence[dict[str, Any]]) -> str:
    """Say where something did not work, and why."""

    def those(name: str, everything: Iterable[str], word: str) -> str:
        found = {other[name] for other in same}
        listed = [value for value in everything if value in found]
        return f" {word} {', '.join(listed)}" if len(listed) < len(list(everything)) else ""

    pythons = sorted({other["python"] for other in same})
    where = (
        those("form", list(programs.FORMS), "as a")
        + those("start_method", list(programs.START_METHODS), "under")
        + f" on Python {', '.join(pythons)}"
    )
    name = _escape(program.section) if program.section else _link(program)
    if run["outcome"] == "explained":
        return f"{name},{where}: {_escape(run['error'])}"
    what = {
        "timeout": "took too long",
        "works-after-all": "works, but the page says",
    }.get(run["outcome"], "failed")
    return f"{name},{where}, {what}: `{run['error'].replace('`', chr(39))}`"


def _environments(
    runs: Sequence[dict[str, Any]], environments: dict[str, dict[str, Any]], pythons: Sequence[str]
) -> Iterable[str]:
    newest = {}
    for run in sorted(runs, key=lambda run: run["date"]):
        newest[run["python"]] = environments[run["environment"]]
    columns = [newest[python] for python in pythons]
    names = list(dict.fromkeys(name for facts in columns for name in facts["packages"]))
    yield "| Python | " + " | ".join(facts["python"] for facts in columns) + " |"
    yield "|---|" + ":-:|" * len(columns)
    for name in names:
        yield (f"| {name} | " + " | ".join(f["packages"].get(name, NONE) for f in columns) + " |")
    built = [", ".join(facts["without wheel"]) or NONE for facts in columns]
    yield "| no wheel: built from source | " + " | ".join(built) + " |"


def _link(program: programs.Program) -> str:
    return f"[{_escape(program.title)}](/{program.docname}.md)"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("readers-table", ReadersTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
