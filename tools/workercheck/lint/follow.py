"""Follow a page statement by statement: what its names stand for, cell after cell."""

from __future__ import annotations

import ast
import dataclasses as dc
from collections.abc import Iterable, Mapping, Sequence

from workercheck.judge.finding import Finding
from workercheck.judge.steps import EXPECT_WORKER_ERROR
from workercheck.judge.wording import printable
from workercheck.lint import calls
from workercheck.lint.calling import Calling
from workercheck.lint.calls import Arguments
from workercheck.lint.cells import Code, CodeError, parse, runs, written
from workercheck.lint.expressions import TooMuchError
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

_CLASS_DECORATORS = {"dataclass", "total_ordering", "unique", "final", "runtime_checkable"}
_REDUCES = {"__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__", "__copy__"}
_CACHES = {"functools.lru_cache", "functools.cache"}
_MARKER = EXPECT_WORKER_ERROR.replace("-", "_")
"""The marker of a test in which a worker must fail."""


def check(codes: Sequence[Code], *, is_script: bool) -> list[Finding]:
    """Return the findings about a page or a script, by line.

    Parameters
    ----------
    codes
        Its code, in the order in which it runs.
    is_script
        Whether it is a file that workers import, and no notebook.

    Raises
    ------
    CodeError
        If a cell is no Python.
    """
    trees = [(code, tree) for code in codes if (tree := parse(code)) is not None]
    if not any(root in code.source for code in codes for root in calls.ROOTS):
        return []
    page = Page(is_script=is_script, files={} if is_script else written(codes))
    page.follow_all(trees)
    unique = {(f.kind, f.line, f.object, f.cell): f for f in map(printable, page.findings)}
    return sorted(unique.values(), key=lambda f: (f.line, f.kind))


class Page(Calling):
    """A page, or a script.

    Parameters
    ----------
    is_script
        As for `Expressions`.
    files
        The Python files that the page writes, which it may import and run.
    """

    def __init__(self, *, is_script: bool, files: Mapping[str, Code]) -> None:
        super().__init__(is_script=is_script)
        self._files = files
        self._modules: dict[str, Mapping[str, Value]] = {}
        self._owner: Own | None = None
        self._path: list[str] = []
        """The names of the classes and functions around what is defined."""
        self._defined: list[tuple[Own, bool]] = []
        """Every function of a script, and whether a worker must fail in it."""
        self._is_guarded = False
        self._is_main = not is_script

    def follow_all(self, trees: Sequence[tuple[Code, ast.Module]]) -> None:
        """Follow a page from its first statement to its last."""
        try:
            for code, tree in trees:
                self.code = code
                if self.is_script:
                    self._is_main = any(_is_guard(node) for node in ast.walk(tree))
                self.body(tree.body)
                for file in self._files:
                    if runs(code, file):
                        self.program([Known("sys.executable"), Constant(file)])
            self._follow_the_rest()
        except TooMuchError:
            pass

    def _follow_the_rest(self) -> None:
        """Follow the functions of a script that others call: tests, modules that import it."""
        self.is_at_import = False
        for own, expects in self._defined if self.is_script else ():
            if id(own.node) in self.followed:
                continue
            before = len(self.findings)
            instance = Instance(own.owner) if own.owner is not None else None
            self._safely(own, instance)
            if expects:
                self.findings[before:] = [
                    dc.replace(found, expected=True) for found in self.findings[before:]
                ]

    def _safely(self, own: Own, instance: Instance | None) -> None:
        try:
            self.follow(own, Arguments([], {}, is_open=True), instance)
        except RecursionError:
            self._calls.clear()

    def follow(self, own: Own, given: Arguments, instance: Instance | None) -> Value:
        """Follow a call of a function of the page; return what it returns."""
        before = self._path, self._owner
        self._path, self._owner = [own.name, "<locals>"], None
        try:
            return super().follow(own, given, instance)
        finally:
            self._path, self._owner = before

    def program(self, words: Sequence[Value]) -> None:
        """Follow a script of the page's that the page runs."""
        interpreter, *others = words or [None]
        if self.code is None or interpreter != Known("sys.executable"):
            return
        for word in others:
            file = self._files.get(str(word.value)) if isinstance(word, Constant) else None
            if file is not None:
                # The cell that runs it says what is expected.
                script = dc.replace(file, tags=self.code.tags)
                self.findings += check([script], is_script=True)

    def _module(self, name: str) -> Mapping[str, Value]:
        """Return the names of a module that the page writes, as its workers import it."""
        if name not in self._modules:
            self._modules[name] = {}
            try:
                tree = parse(self._files[f"{name}.py"])
            except (KeyError, CodeError):
                return {}
            outer = self.scope, self.code, self.is_script, self._is_main
            # What the module does at its import is no work of the page.
            self.scope, self.code, self.is_script, self._is_main = Scope(None), None, True, False
            self.body(tree.body if tree is not None else [])
            self._modules[name] = self.scope.names
            self.scope, self.code, self.is_script, self._is_main = outer
        return self._modules[name]

    # -- Statements ---------------------------------------------------------------

    def body(self, statements: Sequence[ast.stmt]) -> bool:
        """Follow statements in order; return whether what comes after them is reached."""
        for statement in statements:
            handler = getattr(self, f"_{type(statement).__name__}", None)
            try:
                if handler is None:
                    self._expressions(statement)
                elif handler(statement) is False:
                    return False
            except RecursionError:
                if self._calls:
                    raise
        return True

    def _expressions(self, statement: ast.stmt) -> None:
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.expr):
                self.value(child)

    def _Return(self, node: ast.Return) -> bool:
        self.returns(self.value(node.value))
        return False

    def _Raise(self, node: ast.Raise) -> bool:
        self._expressions(node)
        return False

    def _Break(self, node: ast.stmt) -> bool:
        return False

    _Continue = _Break

    def _Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.scope.foreign |= set(node.names)

    _Nonlocal = _Global

    def _Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            self.scope.bind(alias.asname or name, Known(name))

    def _ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name != "*":
                found: Value = None if node.level else Known(f"{node.module}.{alias.name}")
                if f"{node.module}.py" in self._files:
                    found = self._module(str(node.module)).get(alias.name)
                self.scope.bind(alias.asname or alias.name, found)
                continue
            for name in calls.CARRIERS if not node.level else ():
                module, _, last = name.rpartition(".")
                if module == node.module:
                    self.scope.bind(last, Known(name))

    def _Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self.assign(target, value)

    def _AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.value(node.value))

    def _AugAssign(self, node: ast.AugAssign) -> None:
        found = self.value(node.value)
        if isinstance(node.target, ast.Name):
            before = self.scope.find(node.target.id)
            both = isinstance(before, Several)
            items = [*elements(before), *elements(found)]
            self.assign(node.target, Several(items, is_whole=False) if both else None)

    def assign(self, target: ast.expr, value: Value) -> None:
        """Give a value to a name, an attribute or an element."""
        if isinstance(target, ast.Name):
            self.scope.bind(target.id, value)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, None)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value)
        elif isinstance(target, ast.Attribute):
            self._set_attribute(self.value(target.value), target.attr, value, target)
        elif isinstance(target, ast.Subscript):
            owner = self.value(target.value)
            self.value(target.slice)
            if isinstance(owner, Made) and owner.role == "proxy":
                self.hand_out(owner, [value], target)
            elif isinstance(owner, Several):
                owner.add(value)

    def _unpack(self, targets: Sequence[ast.expr], value: Value) -> None:
        items = elements(value)
        is_even = isinstance(value, Several) and value.is_whole and len(items) == len(targets)
        # A generator yields one thing again and again.
        again = items * len(targets) if len(items) == 1 else [None] * len(targets)
        for target, item in zip(targets, items if is_even else again, strict=False):
            self.assign(target, item)

    def _set_attribute(self, owner: Value, name: str, value: Value, node: ast.expr) -> None:
        if isinstance(owner, Made) and owner.role == "proxy":
            self.hand_out(owner, [value], node)
        elif isinstance(owner, Own) and name.startswith("__"):
            owner.reduces = True  # its name or its module is another one from here on
        elif isinstance(owner, (Own, Instance)):
            attributes = owner.attributes if isinstance(owner, Own) else owner.of.attributes
            attributes[name] = merged(attributes.get(name, value), value)
            if isinstance(owner, Instance):
                is_sure = self.branches == owner.branches
                owner.held[name] = value if is_sure else merged(owner.held.get(name), value)

    def _Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, (ast.Name, ast.Attribute)):
                self.assign(target, None)

    # -- Branches and loops -------------------------------------------------------

    def _If(self, node: ast.If) -> bool:
        self.value(node.test)
        if isinstance(node.test, ast.Constant):
            return self.body(node.body if node.test.value else node.orelse)
        guard = _guard_of(node.test) if self.is_script else ""
        if guard == "main":
            was = self.is_at_import, self._is_guarded
            self.is_at_import, self._is_guarded = False, True
            self.body(node.body)
            self.is_at_import, self._is_guarded = was
            return self.body(node.orelse)
        if guard:
            # Which branch a worker takes is not told.
            self.is_at_import = False
        return self._branches([node.body, node.orelse])

    def _branches(self, bodies: Iterable[Sequence[ast.stmt]]) -> bool:
        """Follow branches of which one is taken; a name that differs is told no more."""
        before = dict(self.scope.names)
        ends: list[dict[str, Value]] = []
        self.branches += 1
        for statements in bodies:
            self.scope.names.clear()
            self.scope.names |= before
            if self.body(statements):
                ends.append(dict(self.scope.names))
        self.branches -= 1
        together = dict(ends[0]) if ends else before
        for end in ends[1:]:
            for name, value in end.items():
                together[name] = merged(together.get(name, value), value)
        self.scope.names.clear()
        self.scope.names |= together
        return bool(ends)

    def _Try(self, node: ast.Try) -> bool:
        reached = self._branches(
            [[*node.body, *node.orelse], *(handler.body for handler in node.handlers)]
        )
        return self.body(node.finalbody) and reached

    _TryStar = _Try

    def _Match(self, node: ast.Match) -> bool:
        self.value(node.subject)
        return self._branches([*(case.body for case in node.cases), []])

    def _While(self, node: ast.While) -> None:
        self.value(node.test)
        self._branches([node.body, []])
        self.body(node.orelse)

    def _For(self, node: ast.For | ast.AsyncFor) -> None:
        value = self.value(node.iter)
        for element in self.each(value):
            self.assign(node.target, element)
            if elements(value):
                self.body(node.body)
            else:
                self._branches([node.body, []])
        self.body(node.orelse)

    _AsyncFor = _For

    def _With(self, node: ast.With | ast.AsyncWith) -> bool:
        entered, settings = [], self.settings.copy()
        for item in node.items:
            value = self.value(item.context_expr)
            if isinstance(value, Made) and value.role in ("process", "server"):
                self._method(value, "start", Arguments([], {}), _call(item.context_expr))
            if item.optional_vars is not None:
                self.assign(
                    item.optional_vars, value if isinstance(value, (Made, Instance)) else None
                )
            if isinstance(value, Made) and isinstance(item.context_expr, ast.Call):
                entered.append(value)
                if value.role == "settings":
                    self.enter(value)
        # A block may swallow what ends it.
        self.body(node.body)
        for made in entered:
            made.is_over = True
        self.settings = settings
        return not _always_returns(node.body)

    _AsyncWith = _With

    # -- Definitions --------------------------------------------------------------

    def _FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        decorators = [self.value(_without_call(d)) for d in node.decorator_list]
        own = self._define("function", node)
        own.defaults = [self.value(default) for default in node.args.defaults]
        expects = any(ast.unparse(d).endswith(_MARKER) for d in node.decorator_list)
        self._defined.append((own, expects))
        own.is_cached = any(isinstance(d, Known) and d.name in _CACHES for d in decorators)
        bound: Value = own
        if decorators and not own.is_cached:
            bound = self._decorated(own, node.decorator_list) if own.owner is None else None
        kinds = [_last_name(decorator) for decorator in node.decorator_list]
        if own.owner is not None and kinds == ["staticmethod"]:
            own.owner, bound = None, own
        elif own.owner is not None and kinds == ["classmethod"]:
            bound = Member(own.owner, node.name)  # pickled as an attribute of its class
        self.scope.bind(node.name, bound)

    _AsyncFunctionDef = _FunctionDef

    def _decorated(self, own: Own, decorators: Sequence[ast.expr]) -> Value:
        """Return what decorators make of a function, None where they are not the page's own."""
        found: Value = own
        for node in reversed(decorators):
            function = self.value(_without_call(node))
            if isinstance(node, ast.Call) and function == Known("functools.wraps"):
                # Its name is that of another function: a worker may find it, or may not.
                own.reduces = True
                (wrapped,) = [self.value(argument) for argument in node.args] or [None]
                own.wraps = wrapped if isinstance(wrapped, Own) else None
                continue
            if isinstance(node, ast.Call) and isinstance(function, Own):
                function = self.value(node)
            if not isinstance(function, Own) or function.kind == "class":
                return None
            found = self.follow(function, Arguments([found], {}), None)
        # A worker finds by that name what is bound to it here.
        return own if isinstance(found, Own) and found.wraps is own else found

    def _ClassDef(self, node: ast.ClassDef) -> None:
        own = self._define("class", node)
        own.bases = [self.value(base) for base in node.bases if ast.unparse(base) != "object"]
        inherits = (base for base in own.bases if isinstance(base, Own))
        own.reduces = any(base.reduces for base in inherits)
        outer, self.scope = self.scope, Scope(self.scope)
        owner, self._owner = self._owner, own
        path = self._path
        self._path = [*path, node.name]
        self.body(node.body)
        names = self.scope.names
        self.scope, self._owner, self._path = outer, owner, path
        own.attributes = names
        own.reduces |= bool(_REDUCES & names.keys())
        known = all(_last_name(d) in _CLASS_DECORATORS for d in node.decorator_list)
        has_metaclass = bool(node.keywords)
        self.scope.bind(node.name, own if known and not has_metaclass else None)

    def _define(
        self, kind: str, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    ) -> Own:
        is_local = bool(self._calls) and node.name not in self.scope.foreign
        # The body of a class is no scope for what its methods look up.
        scope = self.scope.parent if self._owner is not None else self.scope
        return Own(
            kind,
            ".".join([*self._path, node.name]),
            node,
            scope or self.scope,
            is_local=is_local,
            is_importable=self.is_script and not self._is_guarded,
            is_main=self._is_main,
            owner=self._owner if kind == "function" else None,
        )


def _guard_of(test: ast.expr) -> str:
    """Return ``main`` for a main guard, ``other`` for what may be one, empty otherwise."""
    if _is_guard(test) and isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq):
        return "main"
    names = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(test) if isinstance(n, ast.Attribute)}
    return "other" if names & {"__name__", "parent_process", "current_process"} else ""


def _is_guard(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare) or len(node.comparators) != 1:
        return False
    sides = (node.left, node.comparators[0])
    return any(isinstance(s, ast.Name) and s.id == "__name__" for s in sides) and any(
        isinstance(s, ast.Constant) and s.value == "__main__" for s in sides
    )


def _always_returns(statements: Sequence[ast.stmt]) -> bool:
    return bool(statements) and isinstance(statements[-1], ast.Return)


def _without_call(decorator: ast.expr) -> ast.expr:
    """Return what a decorator is, without its arguments: they are sent nowhere."""
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _last_name(decorator: ast.expr) -> str:
    return ast.unparse(_without_call(decorator)).rpartition(".")[2]


def _call(node: ast.expr) -> ast.Call:
    return node if isinstance(node, ast.Call) else ast.Call(node, [], [], lineno=node.lineno)
