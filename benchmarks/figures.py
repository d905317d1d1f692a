"""Draw the measurements: a table in Markdown, and plots for light and dark pages."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from builders import BUILDERS, EXECUTING, JCACHE, PARALLEL, SERIAL, THIS

INK = {"light": "#1f2328", "dark": "#d0d7de"}
COLOURS = {THIS: "#1f83d6", SERIAL: "#d97a1d", PARALLEL: "#2e9e5b", JCACHE: "#b05cc6"}
MARKERS = {THIS: "o", SERIAL: "s", PARALLEL: "^", JCACHE: "D"}
# The same picture for the same figures, whenever it is drawn.
STYLE = {"svg.hashsalt": "workercheck", "svg.fonttype": "none", "font.size": 11}


def draw(folder: Path) -> None:
    """Write the tables and the plots of the results in a folder beside them.

    Parameters
    ----------
    folder
        Holds ``tutorials.json``, ``growth.json`` and ``machines.json``, or some of them.
    """
    if (path := folder / "tutorials.json").is_file():
        result = json.loads(path.read_text("utf-8"))
        (folder / "tutorials.inc").write_text(_table(result), "utf-8")
        for theme in INK:
            _save(folder / f"tutorials-{theme}.svg", theme, _bars, result)
    if (path := folder / "growth.json").is_file():
        result = json.loads(path.read_text("utf-8"))
        (folder / "growth.inc").write_text(_growth_table(result), "utf-8")
        for theme in INK:
            _save(folder / f"growth-{theme}.svg", theme, _lines, result)
    if (path := folder / "machines.json").is_file():
        result = json.loads(path.read_text("utf-8"))
        (folder / "machines.inc").write_text(_machines_table(result), "utf-8")
        for theme in INK:
            _save(folder / f"machines-{theme}.svg", theme, _share, result)


def _measured_on(result: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items())
    return (
        f"Measured on {result['date']}: {result['machine']}, Python {result['python']}, {packages}."
    )


def _table(result: dict[str, Any]) -> str:
    measured = result["measured"]
    situations = list(dict.fromkeys(row["situation"] for row in measured))
    rounds = 1 + max(row["round"] for row in measured)

    def cell(builder: str, situation: str) -> str:
        rows = _rows(measured, builder, situation)
        base = _rows(measured, SERIAL, situation)
        ratio = statistics.median(a["wall"] / b["wall"] for a, b in zip(rows, base, strict=True))
        wall = statistics.median(row["wall"] for row in rows)
        return f"{wall:.1f} s ({ratio:.2f})"

    def cold(builder: str, key: str) -> float:
        return statistics.median(row[key] for row in _rows(measured, builder, "cold"))

    head = ["", *situations, "CPU time, cold", "peak memory, cold"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for builder in BUILDERS:
        cells = [cell(builder, situation) for situation in situations]
        cells += [f"{cold(builder, 'cpu'):.0f} s", f"{cold(builder, 'memory'):.0f} MiB"]
        lines.append(f"| {builder} | {' | '.join(cells)} |")
    repeated = f"median of {rounds} rounds" if rounds > 1 else "one round"
    note = (
        f"{_measured_on(result)} {result['pages']} pages, {repeated}. "
        f"Wall time; in brackets the ratio to {SERIAL}."
    )
    return "\n".join([*lines, "", note, ""])


def _growth_table(result: dict[str, Any]) -> str:
    measured = result["measured"]
    lines = [f"| pages | {' | '.join(EXECUTING)} |", f"|---|{'---|' * len(EXECUTING)}"]
    for pages in dict.fromkeys(row["pages"] for row in measured):
        rows = {row["builder"]: row for row in measured if row["pages"] == pages}
        costs = [rows[name] for name in EXECUTING]
        cells = [f"{cost['wall']:.1f} s, {cost['memory']:.0f} MiB" for cost in costs]
        lines.append(f"| {pages} | {' | '.join(cells)} |")
    note = f"{_measured_on(result)} Wall time and peak memory of a cold build."
    if again := [f"{row['builder']}, {row['pages']} pages" for row in measured if row["failed"]]:
        note += f" Built again after a build that failed: {'; '.join(again)}."
    return "\n".join([*lines, "", note, ""])


def _machines_table(result: dict[str, Any]) -> str:
    lines = ["| machines | time | the limit | time / limit |", "|---|---|---|---|"]
    for row, limit in zip(result["measured"], _limits(result), strict=True):
        cells = [str(row["machines"]), f"{row['wall']:.0f} s", f"{limit:.0f} s"]
        lines.append(f"| {' | '.join(cells)} | {row['wall'] / limit:.2f} |")
    loads = ", ".join(f"{row['load']:.1f}" for row in result["measured"])
    note = (
        f"{_measured_on(result)} {result['pages']} pages that sleep {result['sleep']:g} s each. "
        f"Load averages of the machine: {loads}."
    )
    return "\n".join([*lines, "", note, ""])


def _limits(result: dict[str, Any]) -> list[float]:
    """Return the time of one machine, divided by the number of machines."""
    alone = next(row["wall"] for row in result["measured"] if row["machines"] == 1)
    return [alone / row["machines"] for row in result["measured"]]


def _rows(measured: list[dict[str, Any]], builder: str, situation: str) -> list[dict[str, Any]]:
    return sorted(
        (row for row in measured if (row["builder"], row["situation"]) == (builder, situation)),
        key=lambda row: row["round"],
    )


def _save(path: Path, theme: str, plot: Any, result: dict[str, Any]) -> None:
    ink = INK[theme]
    colours = {
        name: ink for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color")
    }
    with plt.rc_context(STYLE | colours | {"ytick.color": ink}):
        figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        axes.spines[["top", "right"]].set_visible(False)
        plot(axes, result)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _bars(axes: Any, result: dict[str, Any]) -> None:
    walls = [
        statistics.median(row["wall"] for row in _rows(result["measured"], name, "cold"))
        for name in EXECUTING
    ]
    bars = axes.barh(EXECUTING, walls, color=[COLOURS[name] for name in EXECUTING])
    axes.bar_label(bars, fmt="%.0f s", padding=4)
    axes.invert_yaxis()
    axes.set_xlabel("cold build, seconds")


def _lines(axes: Any, result: dict[str, Any]) -> None:
    for name in EXECUTING:
        rows = [row for row in result["measured"] if row["builder"] == name]
        axes.plot(
            [row["pages"] for row in rows],
            [row["wall"] for row in rows],
            marker=MARKERS[name],
            color=COLOURS[name],
            label=name,
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("small pages")
    axes.set_ylabel("cold build, seconds")
    axes.legend(frameon=False)


def _share(axes: Any, result: dict[str, Any]) -> None:
    machines = [row["machines"] for row in result["measured"]]
    axes.plot(
        machines,
        [row["wall"] for row in result["measured"]],
        marker="o",
        color=COLOURS[THIS],
        label="workercheck execute --shard",
    )
    limit = "the limit: the time of one machine, divided"
    axes.plot(machines, _limits(result), linestyle="--", color="#8a8f98", label=limit)
    axes.set_xticks(machines)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("machines")
    axes.set_ylabel("seconds until all pages ran")
    axes.legend(frameon=False)
