"""Follow what is sent to workers: the objects of the page that are pickled with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from workercheck.judge.finding import Finding
from workercheck.lint import calls, verdict
from workercheck.lint.calls import Arguments
from workercheck.lint.expressions import Expressions, of_class
from workercheck.lint.values import (
    Instance,
    Known,
    Made,
    Own,
    Several,
    Start,
    Value,
    elements,
    leaves,
    own_of,
)


class Sending(Expressions):
    """What is known while work is handed out."""

    def __init__(self, *, is_script: bool) -> None:
        super().__init__(is_script=is_script)
        self._is_known_to_lack_guard = False

    def follow(self, own: Own, given: Arguments, instance: Instance | None) -> Value:
        """Follow a call of a function of the page; return what it returns."""
        raise NotImplementedError

    def hand_out(
        self, made: Value, sent: Sequence[Value], node: ast.AST, *, through: str = ""
    ) -> None:
        """Hand work to workers."""
        if isinstance(made, Made):
            self._starts(made, node)
            self.send(made, sent, node, is_task=True, through=through)

    def _starts(self, made: Made, node: ast.AST) -> None:
        """Look for the guard of a script whose workers import it; one finding tells of it."""
        is_spawned = made.start.method in ("forkserver", "spawn") and made.library.imports_main
        is_unguarded = self.is_at_import and is_spawned
        if self.code is not None and is_unguarded and not self._is_known_to_lack_guard:
            self._is_known_to_lack_guard = True
            at = verdict.Place(self.code, int(getattr(node, "lineno", 0)))
            self.findings.append(verdict.without_guard(made, at))

    def send(
        self,
        made: Made,
        sent: Sequence[Value],
        node: ast.AST,
        *,
        is_task: bool,
        through: str = "",
    ) -> None:
        """Send objects to a worker, and note those that it cannot load."""
        if self.code is None:
            return
        at = verdict.Place(self.code, int(getattr(node, "lineno", 0)))
        found: list[Finding] = []
        for thing in self._pickled(sent, made, at):
            if isinstance(thing, Made):
                if thing.role == "channel":
                    self._connect(thing, made.start)
                elif thing.manager is not None and thing.manager.is_over:
                    found.append(verdict.without_manager(made, at))
                continue
            kind = verdict.lost(thing, made, is_task=is_task)
            if kind is not None and isinstance(thing, Several):
                found.append(verdict.generator(made, at))
            elif kind is not None and not isinstance(thing, Several):
                found.append(verdict.finding(kind, thing, made, at, through))
        # What is never sent is not loaded either.
        unsent = [finding for finding in found if finding.kind == "pickle-task"]
        self.findings += unsent or found

    def _pickled(
        self, sent: Sequence[Value], made: Made, at: verdict.Place
    ) -> Iterator[Own | Instance | Made | Several]:
        """Yield each object that is pickled where something is sent, by what its class says."""
        rest = list(sent)
        seen = set()
        while rest:
            for thing in leaves(rest.pop(0)):
                method = of_class(thing.of, "__reduce__") if isinstance(thing, Instance) else None
                if not isinstance(thing, Instance):
                    yield thing
                    continue
                is_new = id(thing) not in seen
                seen.add(id(thing))
                if not isinstance(method, Own):
                    yield thing
                    if is_new and _has_plain_state(thing.of):
                        rest += thing.held.values()
                elif is_new:
                    said = self.follow(method, Arguments([], {}), thing)
                    rest.append(said)
                    loader = next(iter(elements(said)), None)
                    if isinstance(loader, Own) and only_raises(loader):
                        self.findings.append(verdict.refused(thing, loader, made, at))

    def _put(self, channel: Made, sent: Sequence[Value], node: ast.AST) -> None:
        """Put objects into a channel: whoever takes them may be a worker."""
        for value in sent:
            is_local = any(
                isinstance(leaf, Several) or (not isinstance(leaf, Made) and own_of(leaf).is_local)
                for leaf in leaves(value)
            )
            if is_local or channel.reader is not None:
                start = channel.reader or channel.start
                through = Made(channel.carrier, channel.library, start, "channel")
                self.send(through, [value], node, is_task=True)
            else:
                channel.waiting.append((value, node))

    def _connect(self, channel: Made, start: Start) -> None:
        """Let a process take from a channel what is put there."""
        channel.reader = start
        waiting, channel.waiting = channel.waiting, []
        for value, node in waiting:
            self._put(channel, [value], node)


def _has_plain_state(own: Own) -> bool:
    """Tell whether the attributes of a class's objects are pickled as they are."""
    if own.reduces or "__getstate__" in own.attributes:
        return False
    return all(
        _has_plain_state(base)
        if isinstance(base, Own)
        else isinstance(base, Known) and base.name in calls.CARRIERS
        for base in own.bases
    )


def only_raises(own: Own) -> bool:
    """Tell whether a function of the page does nothing but raise."""
    if isinstance(own.node, (ast.ClassDef, ast.Lambda)):
        return False
    first, *others = own.node.body
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return isinstance(others[0] if is_docstring and others else first, ast.Raise)
