"""The reference has what the pages use of adaptive, and what workercheck really has."""

import ast
import dataclasses as dc
import json
import re
from pathlib import Path

import pytest
import yaml
from workercheck.fronts.sphinx.settings import SETTINGS
from workercheck.judge.finding import FINDING_KINDS, Finding
from workercheck.report.record import PageReport, Report

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "source"
REFERENCE = SOURCE / "reference"
PAGES = [page for page in sorted(SOURCE.rglob("*.md")) if page.parent != REFERENCE]
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?:---\n.*?^---\n)?(.*?)^```$", re.MULTILINE | re.DOTALL
)
DIRECTIVE = re.compile(
    r"^\.\. (?:autoclass|autofunction|autoexception|py:data):: (\S+)", re.MULTILINE
)
MODULES = {
    "adaptive": "adaptive",
    "learner1D": "adaptive.learner.learner1D",
    "learner2D": "adaptive.learner.learner2D",
    "learnerND": "adaptive.learner.learnerND",
}


def documented():
    return {name for page in REFERENCE.glob("*.md") for name in DIRECTIVE.findall(page.read_text())}


def used(text):
    """Return the names of adaptive's classes and functions in the cells of a page."""
    found = set()
    for cell in CELL.findall(text):
        tree = ast.parse("\n".join(line for line in cell.splitlines() if not line.startswith(":")))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adaptive"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute):
                head, *rest = ast.unparse(node).split(".")
                if head in MODULES:
                    found.add(".".join([MODULES[head], *rest]))
    return {name for name in found if is_class_or_function(name)}


def is_class_or_function(name):
    *modules, last = name.split(".")
    # Not a method, whose class is asked for itself, nor a module or a constant of one.
    is_module = last in MODULES or last in ("learner", "runner", "utils")
    return modules[-1].islower() | (modules[-1] in MODULES) and not (
        is_module or last.isupper() or last.startswith("__")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_uses_is_documented(page):
    assert used(page.read_text()) - documented() == set()


def test_what_is_not_documented_is_seen():
    text = (
        "```{code-cell} ipython3\n:tags: [a]\nfrom adaptive.runner import simple, secret\n"
        "adaptive.Hidden.method(adaptive.Learner1D)\nawait adaptive.runner.other()\n```\n"
        "```{code-cell} ipython3\n---\ntags: [a]\n---\nadaptive.Another\n```\n"
    )
    assert used(text) - documented() == {
        "adaptive.runner.secret",
        "adaptive.Hidden",
        "adaptive.runner.other",
        "adaptive.Another",
    }


def first_column(heading):
    """Return the code words in the first column of the table under a heading or a paragraph."""
    text = (REFERENCE / "workercheck.md").read_text()
    table = text[text.index(heading) :].split("\n|---|", 1)[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[1:]]
    return [word for cell in cells for word in re.findall("`([^`]*)`", cell)]


def test_page_of_workercheck_has_every_kind_and_setting():
    assert list(FINDING_KINDS) == first_column("## Findings")
    assert list(SETTINGS) == first_column("## Settings")


def test_readme_has_every_kind():
    table = (
        (ROOT / "README.md").read_text().split("| kind | what happened |", 1)[1].split("\n\n")[0]
    )
    assert set(FINDING_KINDS) == set(re.findall("`([^`]*)`", table)) - {"expect-worker-error"}


def test_page_of_workercheck_has_every_key_of_the_report():
    report = Report({}, [PageReport("a", "a.md", executed=True)], {})
    data = json.loads(report.to_json())
    assert set(data) == set(first_column("holds `workercheck/report.json`"))
    assert set(data["pages"][0]) == set(first_column("Each page:"))
    assert {field.name for field in dc.fields(Finding)} == set(first_column("Each finding:"))


TEST = re.compile(r"`(tests/\w+(?:\.py)?)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_a_page_names_are_there(page):
    assert [name for name in TEST.findall(page.read_text()) if not (ROOT / name).exists()] == []


def test_page_of_findings_has_an_example_of_each_kind():
    """The build asserts that the output of a cell has these words."""
    page = (SOURCE / "checking" / "findings.md").read_text()
    assert set(FINDING_KINDS) == set(re.findall(r'"\[([\w-]+)\]"', page))


def commands(recipe):
    """Yield the commands of a recipe that are this project's business."""
    if isinstance(recipe, str):
        if recipe.startswith(("sphinx-build", "workercheck")):
            yield recipe.replace('"$READTHEDOCS_OUTPUT/html"', "html")
    else:
        for part in recipe.values() if isinstance(recipe, dict) else recipe:
            if isinstance(part, str | dict | list):
                yield from commands(part)


def test_recipes_run_what_their_page_has_run():
    text = (SOURCE / "checking" / "first-red-build.md").read_text()
    run = [re.sub(" -[qQ] ", " ", line) for line in re.findall(r'^terminal\("(.*)"', text, re.M)]
    recipes = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    found = [command for recipe in recipes for command in commands(recipe)]
    assert 4 == len(found)
    assert [command for command in found if not any(command in line for line in run)] == []
