"""Sphinx extension: each executed page offers itself as a notebook and as a script.

Both are made from the page whenever the site is built, lie beside its HTML, and are linked under
its title. A page says in its header where it does not work, which is shown there as well:

    readers:
    - python: "<3.14"
      form: script
      start-method: [spawn, forkserver]
      section: Use threads
      reason: What cannot work, and why, in a sentence.

Each key but `reason` is optional, and the sentence is true of all that it leaves open. What has
a `section` is about that section, run by itself; the rest is about the page.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses as dc
import fnmatch
import functools
import hashlib
import html
import importlib.metadata
import json
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import script
from docutils import nodes
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from prose import plain
from sphinx.errors import ExtensionError
from sphinx.util.osutil import relative_uri
from workercheck.fronts.sphinx import read_page as pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LOCK = Path(__file__).parents[2] / "requirements" / "readers.txt"
REQUIRES_PYTHON = ">=3.11"
START_METHODS = ("fork", "forkserver", "spawn")
FORMS = {"notebook": ".ipynb", "script": ".py"}

# Tells how to run a program, and where all of them were tried.
ABOUT = "how-to/run-a-page"

# Pages that are not for running, whatever code they have. Those in checking run this
# repository's own commands, which a reader has only where workercheck is installed.
NO_PROGRAMS = ("index", "*/index", "reference/*", "checking/*")

# Written by `-b dummy`, for tools/readers.
MANIFEST = "programs.json"

# What of adaptive needs the packages of its extra `notebook`.
NEEDS_EXTRA = re.compile(
    r"\.(plot\w*|live_plot|live_info|notebook_extension|to_dataframe|load_dataframe)\("
)


class ProgramError(ExtensionError):
    """A page cannot become a program; the message names the file, the line and the way out."""


@dc.dataclass(frozen=True)
class Limit:
    """Where a page does not work, in its author's words."""

    reason: str
    python: str = ""
    form: str = ""
    start_methods: tuple[str, ...] = ()
    section: str = ""

    @classmethod
    def read(cls, entry: Any) -> Limit:
        """Make one of an entry of a page's header.

        Raises
        ------
        ValueError
            If it is not what the module's docstring says; the message tells the fault.
        """
        if not isinstance(entry, dict) or not isinstance(entry.get("reason"), str):
            raise ValueError(f"{entry!r} has no `reason`")
        if unknown := set(entry) - {"reason", "python", "form", "start-method", "section"}:
            raise ValueError(f"nobody knows the key {sorted(unknown)[0]!r}")
        methods = entry.get("start-method", [])
        methods = (methods,) if isinstance(methods, str) else tuple(methods)
        if unknown := set(methods) - set(START_METHODS):
            raise ValueError(f"{sorted(unknown)[0]!r} is no start method")
        if entry.get("form", "script") not in FORMS:
            raise ValueError(f"{entry['form']!r} is no form; say `notebook` or `script`")
        python = str(entry.get("python", ""))
        try:
            SpecifierSet(python)
        except InvalidSpecifier:
            raise ValueError(f'{python!r} is not like "<3.14"') from None
        return cls(
            entry["reason"], python, entry.get("form", ""), methods, entry.get("section", "")
        )

    @property
    def where(self) -> str:
        """Say where, as the end of a sentence."""
        words = [
            f"as a {self.form}" if self.form else "",
            f"on Python {self.python.replace('<', 'before ').replace('>=', 'from ')}"
            if self.python
            else "",
            f"with {' or '.join(self.start_methods)} as the start method"
            if self.start_methods
            else "",
        ]
        return " ".join(filter(None, words)) or "by itself"


@dc.dataclass(frozen=True)
class Program:
    """A page, or a section of one, that can be run."""

    docname: str
    title: str
    path: Path
    cells: tuple[script.Cell, ...]
    limits: tuple[Limit, ...]
    url: str
    """The page's address; empty where the site has none."""
    section: str = ""

    @property
    def name(self) -> str:
        """The file's name without a suffix."""
        page = posixpath.basename(self.docname)
        return f"{page}--{_slug(self.section)}" if self.section else page

    @property
    def code(self) -> str:
        """All the code, one cell after another."""
        return "\n".join(cell.source for cell in self.cells if cell.is_code)

    @functools.cached_property
    def _trees(self) -> list[ast.Module]:
        """The syntax trees of the code cells."""
        return [
            ast.parse(script.without_magics(cell.source)) for cell in self.cells if cell.is_code
        ]

    def sections(self) -> Iterator[Program]:
        """Yield each section as a program: what a reader copies, after the cells above all."""
        titled: dict[str, list[script.Cell]] = {}
        head: list[script.Cell] = []
        into = head
        for cell in self.cells:
            if not cell.is_code:
                before, *parts = re.split(r"^(?=## )", cell.source, flags=re.MULTILINE)
                into.append(dc.replace(cell, source=before))
                for part in parts:
                    into = titled.setdefault(part.splitlines()[0][3:].strip(), [])
                    into.append(dc.replace(cell, source=part))
            else:
                into.append(cell)
        start = [cell for cell in head if cell.is_code]
        for title, cells in titled.items():
            if any(cell.is_code for cell in cells):
                yield dc.replace(
                    self,
                    cells=(*start, *cells),
                    section=title,
                    limits=tuple(limit for limit in self.limits if limit.section == title),
                )

    def notebook(self) -> str:
        """Return the page as a notebook, not executed."""
        cells = []
        for number, cell in enumerate(self.cells):
            if not cell.is_code:
                if cell.source.strip():
                    cells.append(nbformat.v4.new_markdown_cell(cell.source, id=f"cell-{number}"))
                continue
            tags = set(cell.tags)
            if tags & script.EXPECTED_TO_FAIL:
                tags.add("raises-exception")  # so that "run all" goes on
            metadata = {"tags": sorted(tags)} if tags else {}
            cells.append(
                nbformat.v4.new_code_cell(cell.source, id=f"cell-{number}", metadata=metadata)
            )
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        }
        notebook.metadata["language_info"] = {"name": "python"}
        return nbformat.writes(notebook, version=4) + "\n"

    def script(self) -> str:
        """Return the page as a script with inline metadata (PEP 723).

        Raises
        ------
        ProgramError
            For a cell that cannot be in a script, or an import of what nobody has locked.
        """
        try:
            body = script.convert(self.cells)
        except script.ScriptError as error:
            raise ProgramError(f"{self.path}:{error.line}: {error}") from error
        packages = "".join(f'#     "{package}",\n' for package in self._dependencies())
        title = self.title + (f": {self.section}" if self.section else "")
        source = f"Made from {self.url}\n" if self.url else f"Made from the page {self.docname}.\n"
        plots = f"Plots are saved into {self.name}.plots.\n" if ".plots" in body else ""
        return (
            f'# /// script\n# requires-python = "{REQUIRES_PYTHON}"\n'
            f"# dependencies = [\n{packages}# ]\n# ///\n"
            f'"""{title}.\n\n{source}'
            f"`uv run {self.name}.py` brings the packages above;\n"
            f'`python {self.name}.py` runs it where they are installed.\n{plots}"""\n\n{body}'
        )

    def _dependencies(self) -> list[str]:
        locked = lowest_locked()
        needed: dict[str, str] = {}
        for module in sorted(self._imported()):
            if f"{module}.py" in self.code:
                continue  # the page writes it
            if not (distributions := installed().get(module)):
                raise ProgramError(
                    f"{self.path}: imports {module}, which is not installed. "
                    "Add it to the group `pages` of pyproject.toml, and run `nox -s lock`."
                )
            name = re.sub(r"[-_.]+", "-", distributions[0]).lower()
            if name not in locked:
                raise ProgramError(
                    f"{self.path}: imports {module}, but {LOCK.name} has no {name}. "
                    "Add it to the group `pages` of pyproject.toml, and run `nox -s lock`."
                )
            needed[name] = f"{name}>={locked[name]}"
        if "adaptive" in needed and (needed.keys() & extra() or NEEDS_EXTRA.search(self.code)):
            needed["adaptive"] = needed["adaptive"].replace(">=", "[notebook]>=")
        return [needed[name] for name in sorted(needed)]

    def _imported(self) -> set[str]:
        """Return the modules that the cells import, but for the standard library."""
        found = set()
        for node in (node for tree in self._trees for node in ast.walk(tree)):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
        return found - sys.stdlib_module_names

    def undefined(self) -> list[str]:
        """Return the names that the code uses and never defines: another section does.

        A cell that fails on purpose would hide it.
        """
        bound, used = set(dir(builtins)) | {"display", "get_ipython", "__file__"}, set()
        for tree in self._trees:
            defined, needed = script.defined_and_used(tree)
            bound |= defined
            used |= needed
        return sorted(used - bound)

    def digests(self) -> dict[str, str]:
        """Return for each form a fingerprint of what it runs, not of prose, comments and layout."""
        code = [cell for cell in self.cells if cell.is_code]
        cells = "".join(
            f"{sorted(cell.tags)}{ast.dump(tree)}\0"
            for cell, tree in zip(code, self._trees, strict=True)
        )
        runs = {"notebook": cells, "script": ast.dump(ast.parse(script.convert(self.cells)))}
        return {form: hashlib.sha256(text.encode()).hexdigest()[:12] for form, text in runs.items()}

    def write(self, folder: Path) -> None:
        """Write both forms, into the page's folder below `folder`."""
        base = folder / posixpath.dirname(self.docname) / self.name
        base.parent.mkdir(parents=True, exist_ok=True)
        for form, suffix in FORMS.items():
            text = self.notebook() if form == "notebook" else self.script()
            base.with_name(base.name + suffix).write_text(text, encoding="utf-8")


@functools.cache
def installed() -> dict[str, list[str]]:
    """Return which distributions provide each module."""
    return {
        name: list(names) for name, names in importlib.metadata.packages_distributions().items()
    }


@functools.cache
def extra() -> frozenset[str]:
    """Return what comes with ``adaptive[notebook]``."""
    wanted = map(Requirement, importlib.metadata.requires("adaptive") or ())
    return frozenset(
        requirement.name
        for requirement in wanted
        if requirement.marker and requirement.marker.evaluate({"extra": "notebook"})
    ) - {"adaptive"}


@functools.cache
def lowest_locked() -> dict[str, str]:
    """Return the lowest version of each package with which the programs are tried."""
    lowest: dict[str, str] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK.read_text(), re.MULTILINE):
        if name not in lowest or Version(version) < Version(lowest[name]):
            lowest[name] = version
    return lowest


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


# -- The site -------------------------------------------------------------------


_PROGRAMS: dict[str, tuple[int, Program | None]] = {}
"""What `read` has read, with the time at which the file was changed."""


def read(app: Sphinx, docname: str) -> Program | None:
    """Return the program that a page is; None for a page that is none.

    Raises
    ------
    ProgramError
        If its header says something about readers that cannot be understood.
    """
    path = Path(app.env.doc2path(docname))
    if any(fnmatch.fnmatch(docname, p) for p in NO_PROGRAMS) or path.suffix not in (
        ".md",
        ".ipynb",
    ):
        return None
    env: Any = app.env
    known = _PROGRAMS.get(docname)
    changed = path.stat().st_mtime_ns
    if known and known[0] == changed:
        return known[1]
    text = path.read_text(encoding="utf-8")
    page = pages.read(docname, path, text, env.myst_config, env.mystnb_config)
    if page is None:
        _PROGRAMS[docname] = changed, None
        return None
    try:
        entries = page.notebook.metadata.get("readers", [])
        limits = tuple(Limit.read(dict(entry)) for entry in entries)
    except (TypeError, ValueError) as error:
        raise ProgramError(
            f"{path}: its header's `readers`: {error}. docs/extensions/programs.py describes it."
        ) from error
    base = app.config.html_baseurl
    url = posixpath.join(base, app.builder.get_target_uri(docname)) if base else ""
    lines = {cell.position: cell.line for cell in page.cells}

    def address(target: str) -> str:
        file, _, anchor = target.partition("#")
        if not url:
            return ""
        if not file:
            return f"{url}#{anchor}"
        other = posixpath.normpath(posixpath.join(posixpath.dirname(docname), file))
        other = posixpath.splitext(other)[0]
        if other not in app.env.found_docs:
            return ""
        return posixpath.join(base, app.builder.get_target_uri(other)) + (anchor and f"#{anchor}")

    cells = tuple(
        script.Cell(cell.source, lines[position], frozenset(cell.metadata.get("tags", ())))
        if position in lines
        else script.Cell(plain(cell.source, address), 0, is_code=False)
        for position, cell in enumerate(page.notebook.cells)
        if position in lines or cell.cell_type == "markdown"
    )
    heading = re.search(r"^# (.+)$", "\n".join(c.source for c in cells if not c.is_code), re.M)
    program = Program(docname, heading[1] if heading else docname, path, cells, limits, url)
    _PROGRAMS[docname] = changed, program
    return program


def all_programs(app: Sphinx) -> list[Program]:
    """Return every page that is a program, in order of its name."""
    found = (read(app, docname) for docname in sorted(app.env.found_docs))
    return [program for program in found if program is not None]


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the programs of all pages beside their HTML."""
    outdir = Path(app.outdir)
    if exception is not None or not (app.builder.format == "html" or app.builder.name == "dummy"):
        return
    manifest = []
    for page in all_programs(app):
        page.write(outdir)
        if app.builder.name != "dummy":
            continue
        for program in (page, *page.sections()):
            program.write(outdir)
            manifest.append(
                {
                    "page": program.docname,
                    "section": program.section,
                    "base": posixpath.join(posixpath.dirname(program.docname), program.name),
                    "digests": program.digests(),
                    "undefined": program.undefined(),
                    "limits": [
                        dc.asdict(limit)
                        for limit in program.limits
                        if bool(program.section) == bool(limit.section)
                    ],
                }
            )
    if app.builder.name == "dummy":
        (outdir / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the links to a page's programs under its title."""
    title = next(doctree.findall(nodes.title), None)
    if app.builder.format != "html" or title is None or (program := read(app, docname)) is None:
        return
    uri = app.builder.get_target_uri(docname)
    files = " · ".join(
        f'<a class="reference" download href="{relative_uri(uri, docname + suffix)}">{form}</a>'
        for form, suffix in FORMS.items()
    )
    about = ""
    if ABOUT in app.env.found_docs and docname != ABOUT:
        there = relative_uri(uri, app.builder.get_target_uri(ABOUT))
        about = (
            f' (<a class="reference internal" href="{there}">how to run it, and where it works</a>)'
        )
    limits = "".join(f"<p>{html.escape(_sentence(limit))}</p>" for limit in program.limits)
    title.parent.insert(
        title.parent.index(title) + 1,
        nodes.raw(
            "",
            f'<div class="programs"><p>Run this page yourself: {files}{about}</p>{limits}</div>',
            format="html",
        ),
    )


def _sentence(limit: Limit) -> str:
    what = f"The section “{limit.section}” does" if limit.section else "This page does"
    return f"{what} not work {limit.where}: {limit.reason}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hooks."""
    app.connect("doctree-resolved", link)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
