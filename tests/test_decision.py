"""The questions that choose an executor name the same executors as the table of the choice."""

from __future__ import annotations

import re

from conftest import ROOT

PAGE = ROOT / "docs/source/tutorial/tutorial.parallelism.md"


def disagreements(text: str) -> list[str]:
    """Return each step of the decision that names no executor of the table below it."""
    decision = re.search(r"^:::\{container\} decision\n(.*?)^:::$", text, re.DOTALL | re.MULTILINE)
    table = re.search(
        r"^\(the-choice\)=\n.*?\n\n\|[^\n]*\n\|[^\n]*\n((?:\|.*\n)+)", text, re.MULTILINE
    )
    assert decision, "the page has no decision"
    assert table, "the page has no table of the choice"
    named = {
        row.split("|")[1].strip("` ").removeprefix("nothing: ") for row in table[1].splitlines()
    }
    steps = re.split(r"^\d+\. ", decision[1], flags=re.MULTILINE)[1:]
    return [
        step for step in steps if not any(f"`{one}`" in step or f"[{one}]" in step for one in named)
    ]


def test_decision_agrees_with_the_choice():
    assert disagreements(PAGE.read_text(encoding="utf-8")) == []


def test_step_without_an_executor_of_the_table_is_named():
    text = PAGE.read_text(encoding="utf-8").replace("| Dask | one machine", "| Ray | one machine")
    text = text.replace("| MPI | the cluster", "| None | the cluster")
    (step,) = disagreements(text)
    assert step.startswith("Is one machine not enough?")
