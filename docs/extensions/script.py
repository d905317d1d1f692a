"""A page's cells as a script: what only a notebook understands, said in plain Python.

| in the page | in the script |
|---|---|
| ``await x`` at the top level | ``loop.run_until_complete(x)`` |
| ``adaptive.Runner(…)`` | the same with ``ioloop=loop``, since no loop is running |
| ``async for``, ``async with``, what needs a running loop | the cell as an ``async def``, run |
| a value that the page displays | ``show(value)``: printed, or saved if it is a plot |
| a cell that fails on purpose | in a ``try`` that prints the error |
| ``adaptive.notebook_extension()``, ``live_info``, ``live_plot`` | what a terminal can do |
| magics | plain Python |
| a process pool of Python's own | everything behind a ``__main__`` guard |
| prose | comments, in percent format |
"""

from __future__ import annotations

import ast
import dataclasses as dc
import re
import symtable
from collections.abc import Iterator, Sequence

EXPECTED_TO_FAIL = frozenset({"raises-exception", "expect-worker-error"})

# Python's own pools, and what is built on them, import the script again in every worker.
IMPORTS_MAIN_AGAIN = frozenset(
    {
        "Client",
        "LocalCluster",
        "MPIPoolExecutor",
        "Manager",
        "Pool",
        "Process",
        "ProcessPoolExecutor",
    }
)
# Where they are called as functions of these modules they do not.
NOT_OF = frozenset({"loky", "ipyparallel", "ipp"})

RUNNERS = frozenset({"Runner", "AsyncRunner"})

# These look for the loop that runs them.
NEEDS_RUNNING_LOOP = frozenset(
    {"all_tasks", "create_task", "current_task", "get_running_loop", "timeout", "timeout_at"}
)

# What a page does that draws plots.
PLOTS = re.compile(r"^[^#\n]*\b(holoviews|plotly|plot\w*)\b", re.MULTILINE)

DISPLAY_THEMSELVES = re.compile(r"\b(plot_3D|plot_isosurface|iplot)\b")

# Calls whose value is None: nothing to show.
SILENT = frozenset(
    {"append", "cancel", "cleanup", "clear", "close", "defaults", "disable_logging", "dis"}
    | {"extend", "insert", "load", "load_dataframe", "print", "remove", "rmtree", "save", "set"}
    | {"setdefault", "shutdown", "simple", "simplefilter", "sleep", "start", "terminate", "update"}
)

SHOW = '''
def {show}(value):
    """Print a value, as a notebook displays it."""
    if value is not None:
        print(value if hasattr(value, "to_string") else repr(value))
'''

SHOW_PLOTS = '''
def {show}(value):
    """Print a value; save a plot as a web page in a folder beside this script."""
    library = type(value).__module__.partition(".")[0]
    if library not in ("holoviews", "plotly"):
        if value is not None:
            print(value if hasattr(value, "to_string") else repr(value))
        return
    folder = Path(__file__).with_suffix(".plots")
    folder.mkdir(exist_ok=True)
    {show}.plots = getattr({show}, "plots", 0) + 1
    file = folder / f"{{{show}.plots:02}}.html"
    if library == "plotly":
        value.write_html(file, include_plotlyjs="cdn")
    else:
        import holoviews

        holoviews.save(value, file, backend="bokeh")
    print(f"plot: {{folder.name}}/{{file.name}}")
'''

PLOTLY = """
# Some of the plots display themselves with plotly, which would print them here as text.
plotly.offline.init_notebook_mode = lambda: None
plotly.offline.iplot = lambda figure: {show}(plotly.graph_objects.Figure(figure))
"""

SAVE_FIGURES = '''
def {save_figures}():
    """Save what matplotlib has drawn as images, in a folder beside this script."""
    folder = Path(__file__).with_suffix(".plots")
    for number in plt.get_fignums():
        folder.mkdir(exist_ok=True)
        {save_figures}.count = getattr({save_figures}, "count", 0) + 1
        file = folder / f"figure-{{{save_figures}.count:02}}.png"
        plt.figure(number).savefig(file)
        plt.close(number)
        print(f"figure: {{folder.name}}/{{file.name}}")
'''

GUARD = """
# A process pool of Python's own imports this file again in each of its workers (not under
# `fork`). Without this guard, each of them would start everything once more.
if __name__ == "__main__":
"""

LOOP = """
# A notebook has an event loop running, in which `await` waits. A script makes its own.
{loop} = asyncio.new_event_loop()
asyncio.set_event_loop({loop})
"""


class ScriptError(ValueError):
    """A cell has no form in a script; the message names the line in the cell and the way out."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line
        """1-based line, in the cell or, once it is known, in the page."""


@dc.dataclass(frozen=True)
class Cell:
    """A cell of a page."""

    source: str
    line: int
    """1-based line of the page on which it begins."""
    tags: frozenset[str] = frozenset()
    is_code: bool = True


@dc.dataclass
class Names:
    """What the script calls its own things, so that none is one of the page's."""

    taken: frozenset[str]

    def __post_init__(self) -> None:
        self.loop = self._free("loop", "event_loop")
        self.show = self._free("show", "show_value")
        self.save_figures = self._free("save_figures", "save_all_figures")
        self.error = self._free("error", "failure")

    def _free(self, *candidates: str) -> str:
        return next(
            name for name in (*candidates, f"script_{candidates[0]}") if name not in self.taken
        )


def convert(cells: Sequence[Cell]) -> str:
    """Return the cells as the body of a script.

    Parameters
    ----------
    cells
        Prose and code, in order. Prose is Markdown that a text editor can show.

    Returns
    -------
    str
        Python source that any supported version compiles.

    Raises
    ------
    ScriptError
        For a cell that is no Python, or a magic that has no form in a script.
    """
    sources, trees = {}, []
    for cell in cells:
        if cell.is_code:
            try:
                sources[id(cell)] = without_magics(cell.source)
                trees.append(_parse(sources[id(cell)]))
            except ScriptError as error:
                raise ScriptError(str(error), cell.line + error.line) from error
    names = Names(frozenset(_names(trees)))
    quiet = _functions_without_value(trees)
    holoviews = _alias(trees, "holoviews")
    blocks: list[str] = []
    number = 0
    for cell in cells:
        if cell.is_code:
            number += 1
            text = _Code(sources[id(cell)], cell.tags, names, quiet, holoviews, number).convert()
            blocks.append(f"# %%\n{text}")
        elif cell.source.strip():
            prose = "\n".join(f"# {line}".rstrip() for line in cell.source.strip().splitlines())
            blocks.append(f"# %% [markdown]\n{prose}")
    body = "\n\n".join(blocks) + "\n"
    helpers, imports = _helpers(body, names, trees)
    body = (f"{helpers}\n\n\n" if helpers else "") + body
    if any(_imports_main_again(tree) for tree in trees):
        body = GUARD.lstrip("\n") + _indent((f"{imports}\n\n" if imports else "") + body)
    elif imports:
        body = f"{imports}\n\n{body}"
    compile(body, "<script>", "exec")  # a fault of this module, found while the site is built
    return body


def _helpers(body: str, names: Names, trees: Sequence[ast.Module]) -> tuple[str, str]:
    """Return the definitions that the body uses, and the imports that they need."""
    helpers, imports = [], set()
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    if names.loop in used:
        helpers.append(LOOP.format(loop=names.loop).strip("\n"))
        imports.add("import asyncio")
    if names.show in used:
        plots = PLOTS.search(body)
        helpers.append((SHOW_PLOTS if plots else SHOW).format(show=names.show).strip("\n"))
        if plots:
            imports.add("from pathlib import Path")
        if DISPLAY_THEMSELVES.search(body):
            helpers.append(PLOTLY.format(show=names.show).strip("\n"))
            imports |= {"import plotly.graph_objects", "import plotly.offline"}
    if names.save_figures in used:
        helpers.append(SAVE_FIGURES.format(save_figures=names.save_figures).strip("\n"))
        imports |= {"from pathlib import Path", "import matplotlib.pyplot as plt"}
    if "subprocess.run(" in body and not _alias(trees, "subprocess"):
        imports.add("import subprocess")
    if "Path(" in body and not any("Path" in _bound(tree) for tree in trees):
        imports.add("from pathlib import Path")
    others = {line for line in imports if line.split()[1].startswith(("matplotlib", "plotly"))}
    groups = [
        sorted(group, key=lambda line: line.split()[1]) for group in (imports - others, others)
    ]
    return "\n\n\n".join(helpers), "\n\n".join("\n".join(group) for group in groups if group)


# -- Magics --------------------------------------------------------------------


def without_magics(source: str) -> str:
    """Return the source of a cell with its magics in plain Python.

    Raises
    ------
    ScriptError
        For a magic that has no such form.
    """
    first, _, rest = source.partition("\n")
    if first.startswith("%%"):
        magic, _, argument = first[2:].strip().partition(" ")
        if magic == "writefile" and not argument.startswith("-"):
            quoted = _triple_quoted(rest.rstrip("\n") + "\n")
            return f"Path({argument.strip()!r}).write_text({quoted}, encoding='utf-8');"
        if magic in ("time", "timeit", "capture"):
            return f"# {first} (in a notebook)\n{without_magics(rest)}"
        raise ScriptError(
            f"{first!r} has no form in a script. Write it in Python, which works in both.", 1
        )
    try:
        ast.parse(source)
    except SyntaxError:
        lines = source.split("\n")
        return "\n".join(_line_without_magic(line, number) for number, line in enumerate(lines, 1))
    return source


def _line_without_magic(line: str, number: int) -> str:
    match = re.match(r"^(?P<indent>\s*)(?:%(?P<magic>\w+)\s*(?P<rest>.*)|!(?P<command>.+))$", line)
    if match is None:
        return line
    if match["command"]:
        return f"{match['indent']}subprocess.run({match['command'].strip()!r}, shell=True);"
    if match["magic"] in ("time", "timeit"):
        return match["indent"] + match["rest"]
    if match["magic"] in ("matplotlib", "load_ext", "config", "autoreload"):
        return f"{match['indent']}# %{match['magic']} {match['rest']} (in a notebook)"
    raise ScriptError(
        f"'%{match['magic']}' has no form in a script. Write it in Python, which works in both.",
        number,
    )


def _triple_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\\\n{escaped}"""'


# -- What a page's code says about itself ---------------------------------------


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ScriptError(f"is no Python: {error.msg}", error.lineno or 1) from error


def _names(trees: Sequence[ast.Module]) -> Iterator[str]:
    for tree in trees:
        yield from _bound(tree)
        yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        yield from (node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))


def _bound(tree: ast.Module) -> set[str]:
    """Return the names that code binds by import, ``def`` or ``class``, anywhere in it."""
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
    return bound


def _alias(trees: Sequence[ast.Module], module: str) -> str | None:
    """Return the name under which the page's top level has a module."""
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.Import):
                for name in node.names:
                    if name.name == module:
                        return name.asname or name.name
    return None


def _functions_without_value(trees: Sequence[ast.Module]) -> frozenset[str]:
    """Return the names of the page's functions that return nothing."""
    return frozenset(
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(isinstance(inner, ast.Return) and inner.value for inner in ast.walk(node))
    )


def _callee(node: ast.AST) -> str:
    """Return the last name of what is called: ``Runner`` for ``adaptive.Runner(…)``."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _owner(node: ast.Call) -> str:
    """Return the name before it: ``adaptive`` for ``adaptive.Runner(…)``."""
    if isinstance(node.func, ast.Attribute):
        value = node.func.value
        if isinstance(value, ast.Attribute):
            return value.attr
        return value.id if isinstance(value, ast.Name) else "…"
    return ""


def _imports_main_again(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Call)
        and _callee(node) in IMPORTS_MAIN_AGAIN
        and _owner(node) not in NOT_OF
        for node in ast.walk(tree)
    )


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs as part of the cell, without the bodies of its functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _top_level(child)


def _not_in_async(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs outside of the event loop."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.AsyncFunctionDef):
            yield child
            yield from _not_in_async(child)


# -- One cell -------------------------------------------------------------------


class _Code:
    """The conversion of one code cell."""

    def __init__(
        self,
        source: str,
        tags: frozenset[str],
        names: Names,
        quiet: frozenset[str],
        holoviews: str | None,
        number: int,
    ) -> None:
        self.silenced = _ends_with_semicolon(source)
        self.source = re.sub(r"[\s;]*;(\s*(#[^\n]*)?)$", r"\1", source) if self.silenced else source
        self.tags = tags
        self.names = names
        self.quiet = quiet | SILENT
        self.holoviews = holoviews
        self.number = number
        self.tree = ast.parse(self.source)
        # ast counts bytes of UTF-8.
        self.bytes = self.source.encode()
        self.starts = [0]
        for line in self.bytes.split(b"\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.edits: list[tuple[int, int, str]] = []

    def convert(self) -> str:
        in_loop = self._needs_running_loop()
        replaced = list(self._for_terminal())
        if not in_loop:
            self._await_in_loop()
            self._name_loop()
        self._show_last(replaced)
        text = self._edited()
        if self._draws():
            text += f"\n{self.names.save_figures}()"
        if in_loop:
            text = self._in_function(text)
        if self.tags & EXPECTED_TO_FAIL:
            text = _in_try(text, self.names.error)
        return text

    def _span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.stmt | ast.expr) -> str:
        start, end = self._span(node)
        return self.bytes[start:end].decode()

    def _edited(self) -> str:
        text = self.bytes
        # From the end, so that offsets stay true; what begins at one place stays in order.
        edits = sorted(enumerate(self.edits), key=lambda edit: (*edit[1][:2], edit[0]))
        for _, (start, end, new) in reversed(edits):
            text = text[:start] + new.encode() + text[end:]
        return text.decode()

    def _needs_running_loop(self) -> bool:
        for node in _top_level(self.tree):
            if isinstance(node, ast.AsyncFor | ast.AsyncWith):
                return True
            if isinstance(node, ast.comprehension) and node.is_async:
                return True
            if (
                isinstance(node, ast.Call)
                and _callee(node) in NEEDS_RUNNING_LOOP
                and _owner(node) in ("", "asyncio")
            ):
                return True
            # A client of Dask that will be awaited looks for the loop when it is made.
            if isinstance(node, ast.Call) and any(k.arg == "asynchronous" for k in node.keywords):
                return True
        return False

    def _await_in_loop(self) -> None:
        for node in _top_level(self.tree):
            if isinstance(node, ast.Await):
                start, end = self._span(node)
                keyword = re.match(rb"await\s*", self.bytes[start:])
                assert keyword is not None
                self.edits.append(
                    (start, start + keyword.end(), f"{self.names.loop}.run_until_complete(")
                )
                self.edits.append((end, end, ")"))

    def _name_loop(self) -> None:
        for node in _not_in_async(self.tree):
            if (
                isinstance(node, ast.Call)
                and _callee(node) in RUNNERS
                and _owner(node) in ("", "adaptive", "runner")
                and not any(keyword.arg == "ioloop" for keyword in node.keywords)
            ):
                arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
                last = max((self._span(argument)[1] for argument in arguments), default=None)
                if last is None:
                    continue
                self.edits.append((last, last, f", ioloop={self.names.loop}"))

    def _for_terminal(self) -> Iterator[ast.stmt]:
        """Replace what only a notebook can do; yield the statements that this was."""
        for statement in self.tree.body:
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
                continue
            text = self._text(statement)
            match _callee(statement.value), statement.value.func:
                case "notebook_extension", _ if self.holoviews:
                    new = f'{self.holoviews}.extension("bokeh")  # in a notebook: {text}'
                case "notebook_extension", _:
                    new = f"# {text} (in a notebook)"
                case "live_info", ast.Attribute(value=runner):
                    new = f"print({self._text(runner)}.status())  # in a notebook: {text}"
                case "live_plot", _:
                    new = "\n".join(f"# {line}" for line in f"{text}\n(in a notebook)".split("\n"))
                case _:
                    continue
            self.edits = [edit for edit in self.edits if not _within(edit, self._span(statement))]
            self.edits.append((*self._span(statement), new))
            yield statement

    def _show_last(self, replaced: Sequence[ast.stmt]) -> None:
        if self.silenced or "remove-output" in self.tags or not self.tree.body:
            return
        last = self.tree.body[-1]
        if not isinstance(last, ast.Expr) or last in replaced:
            return
        value = last.value.value if isinstance(last.value, ast.Await) else last.value
        if isinstance(value, ast.Constant) and value.value in (None, ...):
            return
        if isinstance(last.value, ast.Await) and isinstance(value, ast.Attribute):
            return  # a task, whose value is None
        if _callee(value) in self.quiet:
            return
        start, end = self._span(last)
        if _callee(value) == "display" and isinstance(value.func, ast.Name):
            self.edits.append((start, start + len("display"), self.names.show))
        elif self.bytes[start:].startswith(b"(") and self._span(last.value) != (start, end):
            self.edits.append((start, start, self.names.show))
        else:
            self.edits.append((start, start, f"{self.names.show}("))
            self.edits.append((end, end, ")"))

    def _draws(self) -> bool:
        return any(isinstance(node, ast.Name) and node.id == "plt" for node in ast.walk(self.tree))

    def _in_function(self, text: str) -> str:
        """Wrap a cell that needs a running loop."""
        name = f"cell_{self.number}"
        inner = f"async def {name}():\n{_indent(text)}"
        # Not its only child: Python 3.14 adds a scope for annotations.
        children = symtable.symtable(inner, "<cell>", "exec").get_children()
        table = next(child for child in children if child.get_name() == name)
        bound = sorted(
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
        )
        head = f"    global {', '.join(bound)}\n" if bound else ""
        return (
            f"async def {name}():\n{head}{_indent(text)}\n\n\n"
            f"{self.names.loop}.run_until_complete({name}())"
        )


def _within(edit: tuple[int, int, str], span: tuple[int, int]) -> bool:
    return span[0] <= edit[0] and edit[1] <= span[1]


def _ends_with_semicolon(source: str) -> bool:
    """Tell whether the cell's value is not displayed, as IPython sees it."""
    lines = [line.partition("#")[0] for line in source.strip().splitlines()]
    return bool(lines) and lines[-1].rstrip().endswith(";")


def _indent(text: str) -> str:
    """Indent code by one level, but not what is inside of strings that go over several lines."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # `await` in a comprehension, say: only parsed in a function
        tree = ast.Module([], [])
    strings = (ast.Constant, ast.JoinedStr, getattr(ast, "TemplateStr", ast.JoinedStr))
    inside: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, strings)
            and not (isinstance(node, ast.Constant) and not isinstance(node.value, str | bytes))
            and node.end_lineno is not None
        ):
            inside |= set(range(node.lineno + 1, node.end_lineno + 1))
    return "\n".join(
        f"    {line}" if line and number not in inside else line
        for number, line in enumerate(text.split("\n"), start=1)
    )


def _in_try(text: str, name: str) -> str:
    """Let the script go on after code that the page expects to fail."""
    body = ast.parse(text).body
    definitions = (
        ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    )
    rest = [statement for statement in body if not isinstance(statement, definitions)]
    if not rest or any(isinstance(statement, ast.Try) for statement in body):
        return text  # it looks after its error itself
    lines = text.split("\n")
    first = rest[0].lineno - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    head, tail = "\n".join(lines[:first]), "\n".join(lines[first:])
    return (
        (f"{head}\n" if head else "")
        + f"try:\n{_indent(tail)}\n"
        + f"except Exception as {name}:  # the page shows this failure\n"
        + f'    print(f"{{type({name}).__name__}}: {{{name}}}")'
    )
