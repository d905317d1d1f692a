"""What the code of a page says about itself, by its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

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


class ScriptError(ValueError):
    """A cell has no form in a script; the message names the line in the cell and the way out."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line
        """1-based line, in the cell or, once it is known, in the page."""


def parse(source: str) -> ast.Module:
    """Return the syntax tree of a cell.

    Raises
    ------
    ScriptError
        For a cell that is no Python.
    """
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ScriptError(f"is no Python: {error.msg}", error.lineno or 1) from error


def names(trees: Sequence[ast.Module]) -> Iterator[str]:
    """Yield every name that the code of the page uses for something."""
    for tree in trees:
        yield from bound(tree)
        yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        yield from (node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))


def bound(tree: ast.Module) -> set[str]:
    """Return the names that code binds by import, ``def`` or ``class``, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def defined_and_used(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names that code defines anywhere and in any way, and those that it uses."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif name := getattr(node, "name", None):  # def, class, except, case
            defined.add(name)
    return defined, used


def alias(trees: Sequence[ast.Module], module: str) -> str | None:
    """Return the name under which the page's top level has a module."""
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.Import):
                for name in node.names:
                    if name.name == module:
                        return name.asname or name.name
    return None


def functions_without_value(trees: Sequence[ast.Module]) -> frozenset[str]:
    """Return the names of the page's functions that return nothing."""
    return frozenset(
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(isinstance(inner, ast.Return) and inner.value for inner in ast.walk(node))
    )


def callee(node: ast.AST) -> str:
    """Return the last name of what is called: ``Runner`` for ``adaptive.Runner(…)``."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def owner(node: ast.Call) -> str:
    """Return the name before it: ``adaptive`` for ``adaptive.Runner(…)``."""
    if isinstance(node.func, ast.Attribute):
        value = node.func.value
        if isinstance(value, ast.Attribute):
            return value.attr
        return value.id if isinstance(value, ast.Name) else "…"
    return ""


def imports_main_again(tree: ast.Module) -> bool:
    """Tell whether code starts workers that import the script again."""
    return any(
        isinstance(node, ast.Call)
        and callee(node) in IMPORTS_MAIN_AGAIN
        and owner(node) not in NOT_OF
        for node in ast.walk(tree)
    )


def top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs as part of the cell, without the bodies of its functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from top_level(child)


def not_in_async(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs outside of the event loop."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.AsyncFunctionDef):
            yield child
            yield from not_in_async(child)


def indent(text: str) -> str:
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
