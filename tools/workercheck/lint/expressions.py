"""Follow the expressions of a page: what each of them stands for."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

from workercheck.judge.finding import Finding
from workercheck.lint.cells import Code
from workercheck.lint.values import (
    Constant,
    Instance,
    Known,
    Made,
    Member,
    Own,
    Scope,
    Several,
    Value,
    elements,
    merged,
)

_STEPS = 100_000
"""How many expressions of a page are looked at: calls within calls may multiply them."""


class TooMuchError(Exception):
    """The page is too long to be followed to its end."""


class Expressions:
    """What is known while a page is followed.

    Parameters
    ----------
    is_script
        Whether workers import the file, and find there what stands at its top level.
    """

    def __init__(self, *, is_script: bool) -> None:
        self.is_script = is_script
        self.findings: list[Finding] = []
        self.scope = Scope(None)
        self.code: Code | None = None
        self.is_at_import = is_script
        """Whether a worker that imports the script would run this as well."""
        self._steps = 0

    def assign(self, target: ast.expr, value: Value) -> None:
        """Give a value to a name, an attribute or an element."""
        raise NotImplementedError

    def value(self, node: ast.expr | None) -> Value:
        """Return what an expression stands for, and follow its calls."""
        if node is None:
            return None
        self._steps += 1
        if self._steps > _STEPS:
            raise TooMuchError
        handler: Callable[[ast.expr], Value] | None = getattr(self, f"_{type(node).__name__}", None)
        if handler is not None:
            return handler(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
        return None

    def _Constant(self, node: ast.Constant) -> Value:
        value = node.value
        return Constant(value) if value is None or isinstance(value, (str, int)) else None

    def _UnaryOp(self, node: ast.UnaryOp) -> Value:
        found = self.value(node.operand)
        if isinstance(node.op, ast.USub) and isinstance(found, Constant):
            return Constant(-found.value) if isinstance(found.value, int) else None
        return None

    def _Name(self, node: ast.Name) -> Value:
        return self.scope.find(node.id)

    def _Await(self, node: ast.Await) -> Value:
        return self.value(node.value)

    def _Starred(self, node: ast.Starred) -> Value:
        return self.value(node.value)

    def _NamedExpr(self, node: ast.NamedExpr) -> Value:
        found = self.value(node.value)
        self.scope.bind(node.target.id, found)
        return found

    def _IfExp(self, node: ast.IfExp) -> Value:
        self.value(node.test)
        return merged(self.value(node.body), self.value(node.orelse))

    def _BoolOp(self, node: ast.BoolOp) -> Value:
        first, *others = [self.value(operand) for operand in node.values]
        for other in others:
            first = merged(first, other)
        return first

    def _BinOp(self, node: ast.BinOp) -> Value:
        # A sum may have thousands of terms, one within the other.
        terms: list[ast.expr] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp):
            terms.append(left.right)
            left = left.left
        found = self.value(left)
        for term in reversed(terms):
            right = self.value(term)
            if isinstance(found, Several):
                found = Several([*found.items, *elements(right)], is_whole=False)
            else:
                found = None
        return found

    def _Lambda(self, node: ast.Lambda) -> Value:
        return Own("lambda", "<lambda>", node, self.scope, is_local=True)

    def _List(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        items: list[Value] = []
        is_whole = True
        for element in node.elts:
            found = self.value(element)
            if isinstance(element, ast.Starred):
                is_whole = False
                items += elements(found)
            else:
                items.append(found)
        return Several(items, is_whole)

    _Tuple = _List
    _Set = _List

    def _Dict(self, node: ast.Dict) -> Value:
        keys = [self.value(key) for key in node.keys]
        values = [self.value(value) for value in node.values]
        found = Several([*keys, *values], is_whole=False)
        if all(isinstance(key, Constant) for key in keys):
            pairs = zip(keys, values, strict=True)
            found.by_key = {key.value: value for key, value in pairs if isinstance(key, Constant)}
        return found

    def _ListComp(self, node: ast.ListComp | ast.SetComp) -> Value:
        return Several(self._comprehension(node.generators, node.elt), is_whole=False)

    _SetComp = _ListComp

    def _GeneratorExp(self, node: ast.GeneratorExp) -> Value:
        items = self._comprehension(node.generators, node.elt)
        return Several(items, is_whole=False, is_generator=True)

    def _DictComp(self, node: ast.DictComp) -> Value:
        return Several(self._comprehension(node.generators, node.key, node.value), is_whole=False)

    def _comprehension(
        self, generators: Sequence[ast.comprehension], *results: ast.expr
    ) -> list[Value]:
        outer, self.scope = self.scope, Scope(self.scope)
        try:
            first, *others = generators
            found: list[Value] = []
            for element in self.each(self.value(first.iter)):
                self.assign(first.target, element)
                for test in first.ifs:
                    self.value(test)
                if others:
                    found += self._comprehension(others, *results)
                else:
                    found += [self.value(result) for result in results]
        finally:
            self.scope = outer
        return found

    @staticmethod
    def each(value: Value) -> Sequence[Value]:
        """Return what a loop goes through: what is not told once, and no more than a few."""
        found = elements(value)[:8]
        return found or [None]

    def _Subscript(self, node: ast.Subscript) -> Value:
        owner = self.value(node.value)
        self.value(node.slice)
        if isinstance(owner, Made) and owner.role == "cluster":
            return owner
        if not isinstance(owner, Several) or not owner.items:
            return None
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(index, (str, int)) and index in owner.by_key:
            return owner.by_key[index]
        if owner.is_whole and type(index) is int and index < len(owner.items):
            return owner.items[index]
        if isinstance(node.slice, ast.Slice):
            return Several(owner.items, is_whole=False)
        first, *others = owner.items
        return first if all(other == first for other in others) else None

    def _Attribute(self, node: ast.Attribute) -> Value:
        return self.attribute(self.value(node.value), node.attr)

    def attribute(self, owner: Value, name: str) -> Value:
        """Return what an attribute of something stands for."""
        if isinstance(owner, Known):
            return Known(f"{owner.name}.{name}", owner.start)
        if isinstance(owner, (Made, Several)):
            return Member(owner, name)
        if isinstance(owner, Own) and owner.kind == "class":
            found = of_class(owner, name)
            is_member = any(
                isinstance(b, Known) and b.name.startswith("enum.") for b in owner.bases
            )
            return Member(owner, name) if is_member and not isinstance(found, Own) else found
        if isinstance(owner, Instance):
            found = of_class(owner.of, name)
            return Member(owner, name) if isinstance(found, Own) and found.owner else found
        return None


def of_class(own: Own, name: str, depth: int = 0) -> Value:
    """Return what a class, or a class of the page that it inherits from, has by a name."""
    if name in own.attributes or depth > 9:
        return own.attributes.get(name)
    for base in own.bases:
        if isinstance(base, Own) and (found := of_class(base, name, depth + 1)):
            return found
    return None
