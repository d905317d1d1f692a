"""Follow the calls of a page: its own functions, and what hands work out."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from workercheck import libraries
from workercheck.libraries import Carrier, Library
from workercheck.lint import calls
from workercheck.lint.calls import Arguments
from workercheck.lint.expressions import of_class
from workercheck.lint.sending import Sending
from workercheck.lint.values import (
    Bag,
    Constant,
    Instance,
    Known,
    Made,
    Member,
    Own,
    Scope,
    Several,
    Start,
    Value,
    elements,
    leaves,
    merged,
)

_DEPTH = 12
"""How many calls of the page's own functions are followed into each other."""
_SAME_ELEMENTS = {"list", "tuple", "set", "frozenset", "sorted", "iter", "reversed", "tqdm"}
"""Functions that return the elements of what they are given."""
_COMBINED = {"zip", "enumerate", "chain", "repeat", "product"}
"""Functions whose elements hold those of what they are given."""
_ADDING = {"append", "add", "appendleft", "insert"}
"""Methods that add an element to a list, or to something like it."""
_SAME = {"enter_context", "enter_async_context", "closing", "copy", "deepcopy"}
"""Functions that return what they are given, or one like it."""


class Calling(Sending):
    """What is known while the calls of a page are followed."""

    def __init__(self, *, is_script: bool) -> None:
        super().__init__(is_script=is_script)
        self.branches = 0
        """How many branches the statement is in."""
        self.followed: set[int] = set()
        """The functions of the page that were called, or handed to something that may."""
        self._defaults: dict[str, Start] = {}
        self._set_up: set[str] = set()
        """The libraries whose settings the page has changed."""
        self.settings: dict[str, Mapping[str, Value]] = {}
        """By library: what a block says that its executors are made with."""
        self._calls: list[ast.AST] = []
        self._returned: list[Value] = []

    def body(self, statements: Sequence[ast.stmt]) -> bool:
        """Follow statements in order; return whether what comes after them is reached."""
        raise NotImplementedError

    def program(self, words: Sequence[Value]) -> None:
        """Follow a script of the page's that the page runs."""
        raise NotImplementedError

    def _Call(self, node: ast.Call) -> Value:
        function = self.value(node.func)
        given = Arguments([], {})
        for argument in node.args:
            found = self.value(argument)
            if isinstance(argument, ast.Starred):
                given.is_open = True
                given.positional += elements(found)
            else:
                given.positional.append(found)
        for keyword in node.keywords:
            found = self.value(keyword.value)
            if keyword.arg is None:
                given.is_open = True
            else:
                given.keywords[keyword.arg] = found
        name = ""
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
        elif isinstance(node.func, ast.Name):
            name = node.func.id
        return self._called(function, name, given, node)

    def _called(self, function: Value, name: str, given: Arguments, node: ast.Call) -> Value:
        if isinstance(function, Known):
            return self._known(function, given, node)
        if isinstance(function, Own):
            return self._own(function, given, node)
        if isinstance(function, Made):
            return self._method(function, "__call__", given, node)
        if isinstance(function, Bag) and function.is_delayed:
            return Bag((*function.items, *given.positional, *given.keywords.values()))
        if isinstance(function, Member):
            if isinstance(function.owner, Several):
                return _of_several(function.owner, function.name, given)
            if isinstance(function.owner, Made):
                return self._method(function.owner, function.name, given, node)
            if isinstance(function.owner, Instance):
                method = of_class(function.owner.of, function.name)
                if isinstance(method, Own):
                    return self.follow(method, given, function.owner)
            return None
        return self._unknown(name, given, node)

    def _known(self, function: Known, given: Arguments, node: ast.Call) -> Value:
        name = function.name
        module, _, last = name.rpartition(".")
        if name == "functools.partial":
            return Bag((*given.positional, *given.keywords.values()))
        if name in libraries.DELAYED:
            return Bag(tuple(given.positional), is_delayed=True)
        if module in calls.WITH_CONTEXTS and last in ("get_context", "set_start_method"):
            library = calls.WITH_CONTEXTS[module]
            taken = calls.take("method", given)
            method = taken.by_name.get("method")
            name_of = method.value if isinstance(method, Constant) else None
            start = Start(name_of if isinstance(name_of, str) else None)
            if last == "set_start_method":
                self._defaults[_decider(library)] = start
                return None
            is_given = given.is_open or "method" in taken.by_name
            return Known(module, start if is_given else function.start or self._default(library))
        if name in libraries.RUNNERS:
            return self._runner(libraries.RUNNERS[name], given, node)
        if name.startswith(libraries.LEARNERS):
            first = given.positional[:1] or list(given.keywords.values())[:1]
            return Bag(tuple(first))
        if module == "subprocess" and given.positional:
            self.program(elements(given.positional[0]))
        if name in calls.CARRIERS:
            return self.make(*calls.CARRIERS[name], function.start, given, node)
        return self._unknown(last, given, node)

    def _unknown(self, name: str, given: Arguments, node: ast.Call) -> Value:
        """Follow a call of something that is not told, by the name that it has."""
        values = [*given.positional, *given.keywords.values()]
        if name == "run_in_executor":
            executor, *sent = given.positional or [None]
            if isinstance(executor, Made) and executor.role == "executor":
                self.hand_out(executor, sent, node)
            return None
        if name in _SAME:
            return values[0] if values else None
        if name in _SAME_ELEMENTS:
            return Several(list(elements(values[0])), is_whole=False) if values else None
        if name in _COMBINED:
            return Several([v for value in values for v in (elements(value) or [value])], False)
        for value in values:
            for thing in leaves(value):
                if isinstance(thing, Own):
                    if name in ("pickle", "register"):
                        # It says how objects of the class are pickled, or may.
                        thing.reduces = True
                        thing.attributes["__reduce__"] = None
                    self._callback(thing)
        return None

    def _callback(self, own: Own) -> None:
        """Follow a function that something may call later on."""
        if own.kind != "class" and id(own.node) not in self.followed:
            was, self.is_at_import = self.is_at_import, False
            self.follow(own, Arguments([], {}, is_open=True), None)
            self.is_at_import = was

    def _own(self, own: Own, given: Arguments, node: ast.Call) -> Value:
        if own.kind != "class":
            return self.follow(own, given, None)
        instance = Instance(own, self.branches)
        if maker := self._maker(own):
            library, carrier, start = maker
            overrides = "__init__" in own.attributes
            told = Arguments([], {}, True) if overrides else given
            made = self.make(library, carrier, start, told, node, instance)
            if overrides:
                self.follow_method(own, "__init__", given, instance)
            return made
        self.follow_method(own, "__init__", given, instance)
        return instance

    def follow_method(self, own: Own, name: str, given: Arguments, instance: Instance) -> None:
        """Follow a method of a class, where the page defines it."""
        method = of_class(own, name)
        if isinstance(method, Own):
            self.follow(method, given, instance)

    def _maker(self, own: Own, depth: int = 0) -> tuple[Library, Carrier, Start | None] | None:
        """Return what carries work and is the base of a class."""
        for base in own.bases if depth < 9 else ():
            if isinstance(base, Known) and base.name in calls.CARRIERS:
                return (*calls.CARRIERS[base.name], base.start)
            if isinstance(base, Own) and (found := self._maker(base, depth + 1)):
                return found
        return None

    def follow(self, own: Own, given: Arguments, instance: Instance | None) -> Value:
        """Follow a call of a function of the page; return what it returns."""
        node = own.node
        if isinstance(node, ast.ClassDef) or node in self._calls or len(self._calls) > _DEPTH:
            return None
        self.followed.add(id(node))
        outer, self.scope = self.scope, Scope(own.scope)
        returned, self._returned = self._returned, []
        self._calls.append(node)
        try:
            self._bind_parameters(node.args, given, instance, own)
            if isinstance(node, ast.Lambda):
                return self.value(node.body)
            self.body(node.body)
            first, *others = self._returned or [None]
            if isinstance(first, Several) and first.is_generator:
                return first
            for other in others:
                first = merged(first, other)
            return first
        finally:
            self._calls.pop()
            self.scope, self._returned = outer, returned

    def _bind_parameters(
        self, parameters: ast.arguments, given: Arguments, instance: Instance | None, own: Own
    ) -> None:
        names = [a.arg for a in (*parameters.posonlyargs, *parameters.args)]
        positional = list(given.positional)
        if instance is not None and own.owner is not None:
            positional.insert(0, instance)
        for name in (*names, *(a.arg for a in parameters.kwonlyargs)):
            self.scope.names[name] = given.keywords.get(name)
        if not given.is_open:
            defaults = parameters.defaults
            for name, value in zip(names[len(names) - len(defaults) :], own.defaults, strict=False):
                if name not in given.keywords:
                    self.scope.names[name] = value
        self.scope.names |= dict(zip(names, positional, strict=False))
        if parameters.vararg:
            self.scope.names[parameters.vararg.arg] = Several(positional[len(names) :], False)
        if parameters.kwarg:
            self.scope.names[parameters.kwarg.arg] = None

    def _Yield(self, node: ast.Yield | ast.YieldFrom) -> Value:
        self.value(node.value)
        self._returned.insert(0, Several([], is_whole=False, is_generator=True))
        return None

    _YieldFrom = _Yield

    def returns(self, value: Value) -> None:
        """Note what the function that is followed returns."""
        self._returned.append(value)

    # -- What carries work --------------------------------------------------------

    def _default(self, library: Library) -> Start:
        own = library.start_method
        if own is None:
            return Start(None)
        return self._defaults.get(_decider(library), Start(own or "forkserver", is_default=not own))

    def make(
        self,
        library: Library,
        carrier: Carrier,
        start: Start | None,
        given: Arguments,
        node: ast.Call,
        instance: Instance | None = None,
    ) -> Value:
        """Return what carries work, as a call makes it."""
        if carrier.role == "settings":
            return self._settings(library, carrier, given)
        settings = self.settings.get(library.name, {})
        given = Arguments(given.positional, {**settings, **given.keywords}, given.is_open)
        taken = calls.take(carrier.parameters, given)
        if not taken.is_told or library.name in self._set_up:
            return None
        library = taken.library or library
        own_start = Start(carrier.start_method) if carrier.start_method else None
        start = start or own_start or self._default(library)
        if taken.has_context:
            context = taken.context
            if isinstance(context, Known):
                start = context.start or self._default(library)
            else:
                start = Start(None)
        role = "channel" if carrier.role == "pipe" else carrier.role
        own = instance.of if instance is not None else None
        made = Made(carrier, library, start, role, taken.sent, of=own)
        if carrier.role == "pipe":
            return Several([made, made])
        if carrier.role in ("process", "server") and instance is not None:
            made.held.append(instance)
        if carrier.role == "function":
            self.hand_out(made, taken.sent, node)
            return None
        if carrier.role == "manager":
            self._starts(made, node)
        elif carrier.starts != "start()":
            self.send(made, taken.sent, node, is_task=False)
        if carrier.starts == "made":
            self._starts(made, node)
        return made

    def _settings(self, library: Library, carrier: Carrier, given: Arguments) -> Value:
        """Return settings, of which nobody knows for how long they hold, save a block for them."""
        is_known = library.name not in self._set_up
        self._set_up.add(library.name)
        taken = calls.take(carrier.parameters, given)
        if not (is_known and taken.is_told and taken.by_name):
            return None
        made = Made(carrier, library, Start(None), carrier.role)
        made.settings = taken.by_name
        return made

    def enter(self, made: Made) -> None:
        """Let settings hold, from here on to the end of their block."""
        self._set_up.discard(made.library.name)
        self.settings[made.library.name] = made.settings

    def _method(self, made: Made, name: str, given: Arguments, node: ast.Call) -> Value:
        if made.of is not None and of_class(made.of, name) is not None:
            return None
        everything = [*given.positional, *given.keywords.values()]
        if made.role in ("manager", "proxy"):
            self.hand_out(made, everything, node)
            return self._proxy(made, name) if made.role == "manager" else None
        parameters = made.carrier.methods.get(name)
        if parameters is None:
            for thing in (leaf for value in everything for leaf in leaves(value)):
                if isinstance(thing, Own):
                    self._callback(thing)
            if made.role == "cluster":
                return made
            return self._proxy(made, name) if made.role == "server" and made.is_started else None
        taken = calls.take(parameters, given)
        if made.role == "channel":
            self._put(made, taken.sent, node)
        elif made.role in ("process", "server"):
            made.is_started = True
            self._starts(made, node)
            self.send(made, made.held, node, is_task=False)
        else:
            self.hand_out(made, taken.sent, node)
            for value in (*given.keywords.values(), *given.positional):
                if value not in taken.sent and isinstance(value, Own):
                    self._callback(value)
        return None

    @staticmethod
    def _proxy(made: Made, name: str) -> Value:
        """Return what a method of a manager returns."""
        if name in ("shutdown", "start", "connect", "join", "register"):
            return None
        return Made(made.carrier, made.library, made.start, "proxy", manager=made)

    def _runner(self, parameters: str, given: Arguments, node: ast.Call) -> Value:
        """Follow what hands a learner to an executor."""
        taken = calls.take(parameters, given)
        executor = taken.by_name.get("executor")
        if "executor" not in taken.by_name and not given.is_open:
            executor = self.make(*calls.CARRIERS[libraries.DEFAULT], None, Arguments([], {}), node)
            self.hand_out(executor, taken.sent, node)
        else:
            self.hand_out(executor, taken.sent, node, through=libraries.LEARNERS[0].strip("."))
        return None


def _decider(library: Library) -> str:
    """Return the library whose default start method holds, empty for `multiprocessing`."""
    return library.name if library.start_method else ""


def _of_several(owner: Several, name: str, given: Arguments) -> Value:
    """Return what a method of a list or a dictionary returns, and do what it does."""
    if name in _ADDING:
        for value in given.positional:
            owner.add(value)
    elif name == "values" and owner.by_key:
        return Several(list(owner.by_key.values()), is_whole=False)
    elif name == "items" and owner.by_key:
        return Several(
            [Several([Constant(key), value]) for key, value in owner.by_key.items()], is_whole=False
        )
    elif name not in ("keys", "get", "copy"):
        owner.by_key.clear()
    return None
