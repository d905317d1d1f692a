"""Findings about workers that ended while they had work."""

from __future__ import annotations

import dataclasses as dc

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.judge import hints, wording
from workercheck.judge.finding import Finding
from workercheck.judge.history import History, Work
from workercheck.judge.messages import GUESS

RESPAWNS = 3
"""Workers of one executor that end before their first task, from which on something ends them."""


def dead_workers(history: History) -> list[Finding]:
    """Return a finding for each worker that was killed, crashed or exited while it had work.

    A worker that ended while it was idle had no work, whoever ended it; one that the page or a
    library ended on purpose has lost nothing that anybody wanted.
    """
    return _Deaths(history).findings


class _Deaths:
    """The ends of a run's processes, each explained once."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.findings: list[Finding] = []
        self.explained = {e.pid for e in history.of(ev.LoadFailed)}
        self.last_message = {e.child: e for e in history.of(ev.EndedAtWork)}
        self._ended_at_work()
        self._initializers()
        self._broken_pools()
        self._exits()

    def _ended_at_work(self) -> None:
        unsent = {(e.pid, e.reply_to) for e in self.history.of(ev.PickleFailed) if e.reply_to}
        for e in self.history.of(ev.EndedAtWork):
            if (e.child, e.fingerprint) in unsent:  # over an answer that it could not send
                self.explained.add(e.child)
            if (
                e.child in self.explained
                or self.history.was_ended_on_purpose(e.child)
                or self.history.is_after_shutdown(e)
            ):
                continue
            if e.is_loading and not e.fingerprint and not self.history.has_work(e.child):
                continue
            if not e.is_loading and e.child:
                library = self.history.library_of_worker(e.child)
                if library is None or not library.answers:
                    continue  # nothing tells whether it had finished
            thing = wording.reader_object(e.globals)
            work = self.history.work_of_message(e.fingerprint, e) if e.fingerprint else None
            if not e.child and self._may_be_ended_by_reader(work):
                continue
            if work is None or work.cell is None:
                work = self.history.work_of_process(e.child)
            if e.is_loading:
                what = f"a worker died while it unpickled {thing or 'a message'}"
                self._add(e, e.child, work, what, thing)
            else:
                self._add(e, e.child, work, _AT_WORK, _object_of(work) or thing)

    def _work_of_last_message(self, child: int) -> Work | None:
        """Return the work that a process had as it ended, None where it is not known."""
        last = self.last_message.get(child)
        return self.history.work_of_message(last.fingerprint, last) if last is not None else None

    def _may_be_ended_by_reader(self, work: Work | None) -> bool:
        """Tell whether the reader's own code ended a worker like the one that had some work."""
        return any(
            work is not None and how == work.executor and self.history.was_ended_by_reader(pid)
            for pid, how in self.history.work_processes().items()
        )

    def _initializers(self) -> None:
        for e in self.history.of(ev.Raised):
            if (
                e.what == "initializer"
                and e.pid not in self.explained
                and not self.history.is_after_shutdown(e)
            ):
                name = e.exception.rsplit(".", 1)[-1]
                error = wording.clean(f"{name}: {e.message}" if e.message else name)
                what = f"the initializer {e.function or ''} raised an error in a worker".replace(
                    "  ", " "
                )
                self._add(
                    e,
                    e.pid,
                    self.history.work_of_process(e.pid),
                    f"{what} ({error}), which ended the worker",
                    e.function,
                    hint=hints.initializer(e.function),
                    exception=e.exception or None,
                )

    def _broken_pools(self) -> None:
        loads = self.history.of(ev.LoadFailed)
        last = -1
        for e in self.history.of(ev.PoolBroken):
            if self.history.is_after_shutdown(e):
                continue
            order = self.history.order(e)
            # Either side of the executor may have failed to load a message.
            known = not self.explained.isdisjoint(e.pids) or any(
                last < self.history.order(load) < order and load.pid == e.pid for load in loads
            )
            last = order
            ended = [pid for pid in e.ended if not self.history.was_ended_on_purpose(pid)]
            on_purpose = bool(e.ended) and not ended
            self.explained.update(e.pids)
            if known or on_purpose or not e.doomed:  # its workers were idle
                continue
            work = next(
                (work for place in e.doomed if (work := self.history.work_at(e.pid, place))), None
            )
            if work is None:  # a worker may end before the call that handed its task out returns
                works = [*map(self._work_of_last_message, ended)]
                works += map(self.history.work_of_process, ended)
                work = next(filter(None, works), None)
            child = (ended or e.pids or [0])[0]
            self._add(e, child, work, _AT_WORK, _object_of(work), executor=e.executor)

    def _exits(self) -> None:
        before_work: dict[object, list[ev.Exited]] = {}
        reruns: dict[str, list[ev.Exited]] = {}
        for e in self.history.of(ev.Exited):
            if e.child in self.explained or self.history.is_after_shutdown(e):
                continue
            library = self.history.library_of_target(e.child)
            if library is not None and library.reruns:
                reruns.setdefault(library.name, []).append(e)
                continue
            if self.history.was_ended_on_purpose(e.child):
                continue
            work = self._work_of_last_message(e.child)
            if library is not None and library.answers:
                work = self.history.work_of_process(e.child)
                if self.history.has_work(e.child):
                    self._add(e, e.child, work, _AT_WORK, _object_of(work))
                else:
                    # Idle, or before its first task: an executor replaces it, and nothing is lost
                    # unless that goes on for ever.
                    place = work.place if work is not None else None
                    before_work.setdefault(id(place), []).append(e)
            elif library is not None:
                # Its scheduler hands tasks on: the process was started for all of them.
                work = work or self.history.guess(e, library.name)
                self._add(e, e.child, work, _AT_WORK, None)
            elif e.exitcode < 0 and e.child not in self.history.deaths_seen:
                work = self.history.work_of_process(e.child)
                self._add(e, e.child, work, _AT_WORK, e.target)
        for name, exits in reruns.items():
            self._lost_for_good(name, exits)
        for exits in before_work.values():
            if len(exits) >= RESPAWNS:
                first = exits[0]
                self._add(
                    first,
                    first.child,
                    self.history.work_of_process(first.child),
                    f"{len(exits)} workers died before their first task",
                    None,
                )

    def _lost_for_good(self, library: str, exits: list[ev.Exited]) -> None:
        """Add what never had a result; the rest of the work was done again by another worker.

        A worker that its library ends, because it takes too much memory, has lost what the library
        gives up then.
        """
        ended = [e for e in exits if not self.history.was_ended_by_reader(e.child)]
        died = [e for e in ended if not self.history.was_ended_on_purpose(e.child)]
        unfinished = [
            (e, work)
            for e in self.history.of(ev.Unfinished)
            if (work := self.history.work_at(e.pid, e.place)) is not None
            and work.executor == library
        ]
        given_up = [work for e, work in unfinished if e.is_given_up and ended]
        waited_for = [work for _, work in unfinished if died]
        lost = {work.cell: work for work in given_up or waited_for}
        works = list(lost.values())
        if not given_up and len(works) > 1:
            works = [dc.replace(works[-1], is_guess=True)]
        for work in works:
            end = (died or ended)[0]
            self._add(end, end.child, work, _AT_WORK, None)

    def _add(
        self,
        event: ev.Event,
        child: int,
        work: Work | None,
        message: str,
        thing: str | None,
        *,
        hint: str | None = None,
        executor: str | None = None,
        exception: str | None = None,
    ) -> None:
        if child:
            self.explained.add(child)
        if work is None or work.cell is None:
            known = self.history.cell_of_process(child)
            work = Work(known, None) if known is not None else self.history.guess(event, executor)
        code = self.history.exit_codes.get(child)
        if code is not None:
            message += f" ({wording.end_of(code)})"
        name = work.executor or (libraries.public(executor) if executor else None)
        if name:
            message += f", sent through {name}"
        self.findings.append(
            Finding(
                "worker-died",
                message + self.history.where(work) + (GUESS if work.is_guess else ""),
                self.history.line(work.cell),
                cell=work.cell,
                expected=self.history.expects(work.cell),
                exception=exception,
                process=f"worker {child}" if child else None,
                object=thing,
                hint=hint or hints.died(is_page=self.history.steps.name == "page"),
            )
        )


_AT_WORK = "a worker died while it had work"


def _object_of(work: Work | None) -> str | None:
    """Return what was handed out: the same, whoever noticed that the worker had ended."""
    return wording.reader_object(work.place.names) if work is not None and work.place else None
