"""One code cell of a page as a part of a script."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator, Sequence

from script import syntax
from script.helpers import Names

EXPECTED_TO_FAIL = frozenset({"raises-exception", "expect-worker-error"})

RUNNERS = frozenset({"Runner", "AsyncRunner"})

# These look for the loop that runs them.
NEEDS_RUNNING_LOOP = frozenset(
    {"all_tasks", "create_task", "current_task", "get_running_loop", "timeout", "timeout_at"}
)

# Calls whose value is None: nothing to show.
SILENT = frozenset(
    {"append", "cancel", "cleanup", "clear", "close", "defaults", "disable_logging", "dis"}
    | {"extend", "insert", "load", "load_dataframe", "print", "remove", "rmtree", "save", "set"}
    | {"setdefault", "shutdown", "simple", "simplefilter", "sleep", "start", "terminate", "update"}
)


class CodeCell:
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
        """Return the cell as it is in the script."""
        in_loop = self._needs_running_loop()
        replaced = list(self._for_terminal())
        if not in_loop:
            self._await_in_loop()
            self._name_loop()
        self._show_displayed()
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
        for node in syntax.top_level(self.tree):
            if isinstance(node, ast.AsyncFor | ast.AsyncWith):
                return True
            if isinstance(node, ast.comprehension) and node.is_async:
                return True
            if (
                isinstance(node, ast.Call)
                and syntax.callee(node) in NEEDS_RUNNING_LOOP
                and syntax.owner(node) in ("", "asyncio")
            ):
                return True
            # A client of Dask that will be awaited looks for the loop when it is made.
            if isinstance(node, ast.Call) and any(k.arg == "asynchronous" for k in node.keywords):
                return True
        return False

    def _await_in_loop(self) -> None:
        for node in syntax.top_level(self.tree):
            if isinstance(node, ast.Await):
                start, end = self._span(node)
                keyword = re.match(rb"await\s*", self.bytes[start:])
                assert keyword is not None
                self.edits.append(
                    (start, start + keyword.end(), f"{self.names.loop}.run_until_complete(")
                )
                self.edits.append((end, end, ")"))

    def _name_loop(self) -> None:
        for node in syntax.not_in_async(self.tree):
            if (
                isinstance(node, ast.Call)
                and syntax.callee(node) in RUNNERS
                and syntax.owner(node) in ("", "adaptive", "runner")
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
            match syntax.callee(statement.value), statement.value.func:
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

    def _show_displayed(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and _is_display(node):
                self.edits.append((*self._span(node.func), self.names.show))

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
        if syntax.callee(value) in self.quiet or _is_display(value):
            return
        start, end = self._span(last)
        if self.bytes[start:].startswith(b"(") and self._span(last.value) != (start, end):
            self.edits.append((start, start, self.names.show))
        else:
            self.edits.append((start, start, f"{self.names.show}("))
            self.edits.append((end, end, ")"))

    def _draws(self) -> bool:
        return any(isinstance(node, ast.Name) and node.id == "plt" for node in ast.walk(self.tree))

    def _in_function(self, text: str) -> str:
        """Wrap a cell that needs a running loop."""
        name = f"cell_{self.number}"
        inner = f"async def {name}():\n{syntax.indent(text)}"
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
            f"async def {name}():\n{head}{syntax.indent(text)}\n\n\n"
            f"{self.names.loop}.run_until_complete({name}())"
        )


def _within(edit: tuple[int, int, str], span: tuple[int, int]) -> bool:
    return span[0] <= edit[0] and edit[1] <= span[1]


def _is_display(node: ast.expr) -> bool:
    return syntax.callee(node) == "display" and isinstance(getattr(node, "func", None), ast.Name)


def _ends_with_semicolon(source: str) -> bool:
    """Tell whether the cell's value is not displayed, as IPython sees it."""
    lines = [line.partition("#")[0] for line in source.strip().splitlines()]
    return bool(lines) and lines[-1].rstrip().endswith(";")


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
        + f"try:\n{syntax.indent(tail)}\n"
        + f"except Exception as {name}:  # the page shows this failure\n"
        + f'    print(f"{{type({name}).__name__}}: {{{name}}}")'
    )
