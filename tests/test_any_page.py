"""Pages and folders that nobody here wrote: each is told of by itself, and none ends the build."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import HEADER, Build, Site, gate
from preloaded import Preloaded

CELL = "# Page\n\n```{code-cell}\n6 * 7\n```\n"


def header(text: str) -> str:
    """Return a notebook's header with more in it; the lines of that begin at the sixth."""
    return HEADER.replace("name: python3\n---", f"name: python3\n{text}\n---")


ODD = {
    "mystnb-off": header("mystnb: off") + CELL,
    "mystnb-list": header("mystnb: [a]") + CELL,
    "mystnb-mode": header("mystnb:\n  execution_mode: off") + CELL,
    "kernelspec-text": "---\nfile_format: mystnb\nkernelspec: python3\n---\n\n" + CELL,
    "jupytext-text": "---\nfile_format: mystnb\njupytext: myst\n---\n\n" + CELL,
    "kernel-missing": HEADER.replace("python3", "nope") + CELL,
    "cell-broken": HEADER + "# Page\n\n```{code-cell}\n---\na: [\n---\n1\n```\n",
    "tags-number": HEADER + "# Page\n\n```{code-cell}\n:tags: 5\n6 * 7\n```\n",
    "tags-text": HEADER + "# Page\n\n```{code-cell}\n:tags: hide-input\n6 * 7\n```\n",
    "header-broken": HEADER.replace("  name", "  - name: [") + CELL,
    "empty": HEADER + "# Page\n\n```{code-cell}\n```\n",
    "good": HEADER + CELL,
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded | None) -> Build:
    """One build of all of them, from a folder beside the linked one."""
    root = tmp_path_factory.mktemp("project")
    site = Site(root / "docs", preloaded)
    for name, text in ODD.items():
        site.write(name, text=text)
    (site.source / "latin-1.md").write_bytes((HEADER + "# Café\n\n" + CELL).encode("latin-1"))
    (site.source / "utf-16.md").write_bytes((HEADER + CELL).encode("utf-16"))
    name = os.fsencode(site.source) + b"/caf\xe9.md"
    Path(os.fsdecode(name)).write_text(HEADER + CELL)
    examples = root / "examples"
    examples.mkdir()
    (examples / "linked.md").write_text(HEADER + "# Page\n\n```{code-cell}\n1 / 0\n```\n")
    (examples / "alone.md").write_text(HEADER + "# Page\n\n```{code-cell}\n1 / 0\n```\n")
    (site.source / "examples").symlink_to("../../examples")
    (site.source / "alone.md").symlink_to("../../examples/alone.md")
    return site.build()


@pytest.mark.parametrize(
    ("docname", "kind", "line", "words"),
    [
        (
            "mystnb-off",
            "not-executed",
            5,
            "the page's 'mystnb' header is False, which is not a mapping",
        ),
        (
            "mystnb-list",
            "not-executed",
            5,
            "the page's 'mystnb' header is ['a'], which is not a mapping",
        ),
        ("mystnb-mode", "not-executed", 5, "off, yes and no for true and false unless"),
        ("kernelspec-text", "not-executed", 3, "Write the header like kernelspec: {name: python3}"),
        (
            "jupytext-text",
            "not-executed",
            3,
            "the page's 'jupytext' header is 'myst', which is not a mapping",
        ),
        ("kernel-missing", "kernel-died", 4, "the kernel 'nope' is not installed here"),
        ("cell-broken", "not-executed", 9, "Code cell 1 at line 9 could not be read"),
        ("tags-number", "not-executed", 10, "the tags of a cell are 5, which is not a list"),
        (
            "tags-text",
            "not-executed",
            10,
            "the tags of a cell are 'hide-input', which is not a list",
        ),
        ("header-broken", "not-executed", 9, "a code-cell outside a notebook"),
        ("latin-1", "not-executed", 1, "Save it as UTF-8"),
        ("utf-16", "not-executed", 1, "Save it as UTF-8"),
        ("examples/linked", "cell-error", 9, "division by zero"),
        ("alone", "cell-error", 9, "division by zero"),
    ],
)
def test_page_is_its_own_finding(odd: Build, docname: str, kind: str, line: int, words: str):
    assert [(kind, line)] == odd.findings(docname)
    (told,) = [text for text in odd.log.splitlines() if text.startswith(f"source/{docname}.md:")]
    assert told.startswith(f"source/{docname}.md:{line}: ")
    assert words in told


def test_other_pages_run(odd: Build) -> None:
    assert 1 == odd.status, odd.log
    assert "Traceback" not in odd.log
    assert (True, []) == (odd.page("good")["executed"], odd.findings("good"))
    assert "42\n" in (odd.outdir / "good.html").read_text()


def test_name_that_is_not_utf_8(odd: Build) -> None:
    assert [("not-executed", 0)] == odd.findings("caf\\xe9")
    assert "source/caf\\xe9.md: not executed: the name of the file is not UTF-8" in odd.log


def test_page_with_an_empty_cell_is_no_failure(odd: Build) -> None:
    assert (False, []) == (odd.page("empty")["executed"], odd.findings("empty"))
    assert "its code cells are empty" == odd.page("empty")["why_not_executed"]
    assert 1 == gate(odd.outdir).returncode


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded | None) -> Site:
    """A page that shows the value of an expression at two places of its text."""
    site = Site(tmp_path_factory.mktemp("inline"), preloaded)
    site.write(
        "page",
        text=header("mystnb:\n  execution_mode: inline")
        + "# Page\n\n```{code-cell}\nx = 41\n```\n\nFirst {eval}`x`.\n\n"
        + "```{code-cell}\nx += 1\n```\n\nThen {eval}`x`.\n",
    )
    return site


def test_inline_values_are_those_of_their_place_and_watched(inline: Site) -> None:
    build = inline.build()
    assert 0 == build.status, build.log
    assert (True, []) == (build.page("page")["executed"], build.findings("page"))
    text = re.sub("<[^>]*>", "", (build.outdir / "page.html").read_text())
    assert ["First 41.", "Then 42."] == re.findall(r"(?:First|Then) \d+\.", text)


@pytest.mark.parametrize("builder", ["singlehtml", "dirhtml", "gettext", "latex"])
def test_other_builders_pass_the_same_page(inline: Site, builder: str) -> None:
    build = inline.build("-b", builder, "-E")
    assert 0 == build.status, build.log
    assert 0 == gate(build.outdir).returncode


def test_value_that_is_not_there_is_the_pages_finding(site: Site) -> None:
    site.write(
        "page",
        text=header("mystnb:\n  execution_mode: inline")
        + "# Page\n\n```{code-cell}\nx = 41\n```\n\nIt is {eval}`y`.\n",
    )
    build = site.build()
    assert 1 == build.status
    assert [("cell-error", 15)] == build.findings("page")
    assert "source/page.md:15: {eval}`y` has no value (NameError" in build.log
