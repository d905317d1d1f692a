"""What an expression may stand for, as far as the text of a page tells: None where it does not."""

from __future__ import annotations

import ast
import dataclasses as dc
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from workercheck.libraries import Carrier, Library

_MOST = 64
"""How many elements of a list are told apart."""


@dc.dataclass(slots=True, eq=False)
class Scope:
    """The names of a page, or of one call of a function."""

    parent: Scope | None
    names: dict[str, Value] = dc.field(default_factory=dict)
    foreign: set[str] = dc.field(default_factory=set)
    """Names that a function has declared ``global`` or ``nonlocal``."""

    def find(self, name: str) -> Value:
        """Return what a name stands for."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def bind(self, name: str, value: Value) -> None:
        """Let a name stand for something from here on."""
        scope = self
        while name in scope.foreign and scope.parent is not None:
            scope = scope.parent
        scope.names[name] = value


@dc.dataclass(frozen=True, slots=True)
class Start:
    """How workers are started."""

    method: str | None
    """A start method, None where the text does not tell it."""
    is_default: bool = False


@dc.dataclass(frozen=True, slots=True)
class Known:
    """Something that was imported, by its dotted name."""

    name: str
    start: Start | None = None
    """For a context of `multiprocessing`, and what is taken from it."""


@dc.dataclass(slots=True, eq=False)
class Own:
    """A function, a class or a lambda that the page itself defines."""

    kind: str
    name: str
    """Its qualified name."""
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    scope: Scope
    """Where its own names are looked up."""
    is_local: bool = False
    """Whether pickle cannot store it at all: a lambda, or something within a function."""
    is_importable: bool = False
    """Whether a worker finds it, as it imports the script."""
    is_main: bool = True
    """Whether its module is ``__main__``, as far as the text tells."""
    is_cached: bool = False
    """Whether it is an ``lru_cache``, which is pickled as a name by whatever."""
    reduces: bool = False
    """Whether it says by itself how it is pickled."""
    bases: list[Value] = dc.field(default_factory=list)
    attributes: dict[str, Value] = dc.field(default_factory=dict)
    """What a class and its instances hold, by name."""
    owner: Own | None = None
    """The class of a method."""
    defaults: list[Value] = dc.field(default_factory=list)
    wraps: Own | None = None
    """The function whose name it has taken, as ``functools.wraps`` does."""


@dc.dataclass(slots=True, eq=False)
class Instance:
    """An object of a class of the page's own."""

    of: Own
    branches: int = 0
    """How many branches it was made in."""
    held: dict[str, Value] = dc.field(default_factory=dict)
    """Its own attributes, by name."""


@dc.dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """Objects that are sent with another one that holds them: a partial, a learner."""

    items: tuple[Value, ...]
    is_delayed: bool = False
    """Whether a call of it makes a task, and runs nothing."""


@dc.dataclass(slots=True, eq=False)
class Several:
    """The elements of a list, a tuple or a dictionary, in order."""

    items: list[Value]
    is_whole: bool = True
    """Whether these are all of them, one for one."""
    is_generator: bool = False
    """Whether it is a generator, which nothing can pickle."""
    by_key: dict[str | int | None, Value] = dc.field(default_factory=dict)
    """The values of a dictionary whose keys are told."""

    def __post_init__(self) -> None:
        """Forget what is too much: loops over loops may multiply it."""
        if len(self.items) > _MOST:
            self.items, self.is_whole = self.items[:_MOST], False

    def add(self, item: Value) -> None:
        """Add an element, in whatever place."""
        self.is_whole = False
        self.by_key.clear()
        if len(self.items) < _MOST:
            self.items.append(item)


@dc.dataclass(frozen=True, slots=True)
class Constant:
    """A string, a number, or None where the text of a page says so."""

    value: str | int | None


@dc.dataclass(slots=True, eq=False)
class Made:
    """What carries work: an executor, a process, a manager or one of its objects, a queue."""

    carrier: Carrier
    library: Library
    start: Start
    role: str
    held: list[Value] = dc.field(default_factory=list)
    """What is sent when it starts."""
    waiting: list[tuple[Value, ast.AST]] = dc.field(default_factory=list)
    """What was put into a channel, and where, before a process had it."""
    reader: Start | None = None
    """How the process was started that takes from a channel."""
    of: Own | None = None
    """The class of the page that it is an object of."""
    manager: Made | None = None
    """What an object belongs to that a manager has made."""
    settings: Mapping[str, Value] = dc.field(default_factory=dict)
    """What others of its library are made with within its block."""
    is_started: bool = False
    is_over: bool = False
    """Whether the block has ended that a manager was for."""


@dc.dataclass(frozen=True, slots=True, eq=False)
class Member:
    """An attribute of something, not called yet."""

    owner: Made | Own | Instance | Several
    name: str


Value: TypeAlias = Known | Own | Instance | Bag | Several | Constant | Made | Member | None


def own_of(thing: Own | Instance) -> Own:
    """Return what a worker has to find for an object: its class, or itself."""
    return thing.of if isinstance(thing, Instance) else thing


def merged(first: Value, second: Value) -> Value:
    """Return what a name stands for after two branches, None where they differ."""
    if first is second or first == second:
        return first
    if isinstance(first, Several) and isinstance(second, Several):
        return Several([*first.items, *second.items], is_whole=False)
    return None


def elements(value: Value) -> list[Value]:
    """Return what going through something yields, as far as it is told."""
    return value.items if isinstance(value, Several) else []


def leaves(value: Value) -> Iterator[Own | Instance | Made | Several]:
    """Yield each object of the page, and each generator, that is sent where a value is, once."""
    rest, seen = [value], set()
    while rest:
        value = rest.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Several):
            if value.is_generator:
                yield value
            else:
                rest += value.items
        elif isinstance(value, (Own, Instance, Made)):
            yield value
        elif isinstance(value, Bag):
            rest += value.items
        elif isinstance(value, Member) and isinstance(value.owner, (Own, Instance)):
            yield value.owner
