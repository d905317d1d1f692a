"""Properties: whatever is in the evidence is read and judged; every pickle loads as it would."""

from __future__ import annotations

import dataclasses as dc
import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from runs import page_of_tags
from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.judge import rules
from workercheck.judge.finding import FINDING_KINDS, WORKER_KINDS
from workercheck.judge.history import History
from workercheck.judge.steps import HandOut, HandOuts
from workercheck.report import record as report
from workercheck.report.command import of_command
from workercheck.run.page import Page

if TYPE_CHECKING:
    from collections.abc import Iterator

text = st.text(max_size=60)
texts = st.lists(text, max_size=4)
pids = st.integers(1, 12)
VALUES = {
    int: pids,
    float: st.floats(0, 100),
    str: text,
    bool: st.booleans(),
    str | None: st.none() | text,
    int | None: st.none() | pids,
    list[str]: texts,
    list[int]: st.lists(pids, max_size=3),
    list[list[str]]: st.lists(st.tuples(text, text).map(list), max_size=3),
    dict[str, str]: st.dictionaries(text, text, max_size=3),
}


def events_of(cls: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    hints = get_type_hints(cls)
    fields = {field.name: VALUES[hints[field.name]] for field in dc.fields(cls)}
    if "cell" in fields and hints["cell"] is not str and hints["cell"] != str | None:
        fields["cell"] = st.integers(0, 3)
    return st.builds(cls, **fields)


any_event = st.one_of([events_of(cls) for cls in ev.EVENT_TYPES.values()])


pages = st.lists(
    st.lists(st.sampled_from(["expect-worker-error", "raises-exception"]), max_size=2),
    min_size=1,
    max_size=4,
).map(page_of_tags)


@given(any_event)
def test_event_survives_writing_and_reading(event: ev.Event) -> None:
    line = ev.dumps(event)
    assert "\n" not in line
    assert event == ev.parse(line)


@given(st.one_of(text, any_event.map(ev.dumps), st.binary().map(repr)), st.integers(0, 40))
@example('{"event": "process-started"}', 0)
@example("[]", 0)
@example("null", 0)
def test_any_line_is_an_event_or_damage(line: str, cut: int) -> None:
    assert isinstance(ev.parse(line[cut:]), ev.Event)


json_values = st.recursive(
    st.none() | st.booleans() | pids | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def ill_typed_lines(draw: st.DrawFn) -> str:
    """A line of an event in which some fields have values of any type."""
    fields = json.loads(ev.dumps(draw(any_event)))
    for name in draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3)):
        fields[name] = draw(json_values)
    return json.dumps(fields)


@given(pages, st.lists(ill_typed_lines() | any_event.map(ev.dumps), max_size=12))
@example(page_of_tags([[]]), ['{"event": "process-started", "pid": "x"}'])
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_ill_typed_evidence_is_judged(page: Page, lines: list[str]) -> None:
    events = [ev.parse(line) for line in lines]
    findings = rules.judge(History(page, events))
    assert all(finding.kind in FINDING_KINDS for finding in findings)
    if any(isinstance(event, ev.Damaged) for event in events) and not any(
        isinstance(event, ev.Finished) and event.language != "python" for event in events
    ):
        assert "not-watched" in {finding.kind for finding in findings}


@given(pages, st.lists(any_event, max_size=12))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_evidence_is_judged(page: Page, events: list[ev.Event]) -> None:
    findings = rules.judge(History(page, events))
    assert findings == sorted(findings, key=lambda f: (f.line, f.kind))
    for finding in findings:
        assert finding.message.isprintable()
        assert finding.kind in FINDING_KINDS
        if finding.expected:
            assert finding.kind in WORKER_KINDS
            assert finding.cell is not None
            assert page.cells[finding.cell].expects_worker_error
    reported = report.PageReport("page", "page.md", executed=True, findings=findings)
    made = report.Report({}, [reported], {})
    for write in (report.text, report.github, report.junit):
        assert isinstance(write(made), str)


@given(st.lists(any_event, max_size=12), st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_evidence_of_a_command_is_reported(events: list[ev.Event], known: int) -> None:
    def locate(place: ev.Place) -> HandOut | None:
        source = f"{place.pid % 3}.py"
        return HandOut(line=place.id, tags=frozenset(), source=source, docname=source)

    places = [e for e in events if isinstance(e, ev.Place)]
    made = of_command(["python", "x.py"], HandOuts(places[:known], locate), events, {})
    judged = rules.judge(History(HandOuts(places[:known], locate), events))
    assert len(judged) == sum(len(page.findings) for page in made.pages)


@given(pages, st.lists(any_event, max_size=8), events_of(ev.LoadFailed))
def test_failed_load_is_never_lost(page: Page, events: list[ev.Event], load: ev.LoadFailed) -> None:
    before_the_end = [e for e in events if not isinstance(e, ev.ShutdownStarted)]
    kinds = {finding.kind for finding in rules.judge(History(page, [*before_the_end, load]))}
    assert kinds & {"unpickle-task", "unpickle-result"}


ends = st.one_of(events_of(cls) for cls in (ev.Exited, ev.PoolBroken, ev.SignalSent, ev.LoadFailed))


@given(pages, st.lists(ends | events_of(ev.EndedAtWork), max_size=5), st.lists(ends, max_size=5))
@settings(suppress_health_check=[HealthCheck.filter_too_much])
def test_what_ends_in_the_shutdown_acquits_nobody(
    page: Page, events: list[ev.Event], late: list[ev.Event]
) -> None:
    assume(rules.has_failed(page, events))
    closing = ev.ShutdownStarted(pid=1, time=101)
    after = [dc.replace(event, time=102 + event.time) for event in late]
    assert rules.has_failed(page, [*events, closing, *after])


LOADER = """
import pickle, sys
while size := sys.stdin.buffer.read(4):
    # In the name of a transport, so that the whole of the watched path runs.
    message = sys.stdin.buffer.read(int.from_bytes(size, "big"))
    space = {"__name__": "multiprocessing.fuzzed", "pickle": pickle, "message": message}
    try:
        exec("value = pickle.loads(message)", space)
        print(ascii(space["value"])[:200], flush=True)
    except BaseException as exc:
        bare = exc.__traceback__.tb_next.tb_next is None
        print(type(exc).__name__, ascii(str(exc))[:200], bare, flush=True)
"""


class Loader:
    """A process that loads one message after the other."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOADER],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def load(self, message: bytes) -> bytes:
        """Return what it says about the message."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(len(message).to_bytes(4, "big") + message)
        self.process.stdin.flush()
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loader, Loader]]:
    """A process without the recorder, and one with it."""
    evidence = Evidence(tmp_path_factory.mktemp("evidence")).create()
    both = Loader({}), Loader(evidence.environ)
    yield both
    for loader in both:
        loader.process.communicate()
    assert any(isinstance(event, ev.LoadFailed) for event in evidence.read())


harmless = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(text, inner),
    max_leaves=10,
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Pickles, whole, cut, and with a byte changed; none that could name a function to call."""
    message = bytearray(pickle.dumps(draw(harmless), protocol=draw(st.integers(0, 5))))
    for _ in range(draw(st.integers(0, 2))):
        position = draw(st.integers(0, len(message) - 1))
        # No opcode that reads a global, calls, or asks for gigabytes.
        message[position] = draw(st.sampled_from(b"NK.]}()0aesubt\x85\x86\x88\x94"))
    return bytes(message[: draw(st.integers(1, len(message)))])


@given(messages())
@settings(max_examples=1000)
def test_any_pickle_loads_or_fails_as_without_the_recorder(
    loaders: tuple[Loader, Loader], message: bytes
) -> None:
    without, watched = (loader.load(message) for loader in loaders)
    assert without == watched
    assert watched.endswith(b"\n")
