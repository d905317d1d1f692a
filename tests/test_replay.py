"""docs/source/replay.py, which pages load into a cell, records what the workers did."""

import itertools
import json
import re
import time
from pathlib import Path

import adaptive
import loky
import numpy as np
import pytest

HELPER = Path(__file__).resolve().parent.parent / "docs" / "source" / "replay.py"


def peak(x):
    return 1 / (1 + ((x - 0.3) / 0.01) ** 2)


@pytest.fixture
def helper():
    """Return the names of the helper, defined in no module, as in a notebook."""
    names = {"__name__": "__main__"}
    exec(compile(HELPER.read_text(), HELPER, "exec"), names)
    return names


def run(record, function, npoints):
    recorded = record(function, bounds=(-1, 1))
    with loky.ProcessPoolExecutor(2) as executor:
        adaptive.BlockingRunner(recorded, npoints_goal=npoints, executor=executor, ntasks=2)
    return recorded


def test_record_has_each_point_with_its_worker_and_times(helper):
    def slow(x):
        time.sleep(0.02)
        return peak(x)

    recorded = run(helper["record"], slow, 30)
    replay = helper["Replay"](recorded, truth=peak)
    html = replay._repr_html_()
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])

    points = data["points"]
    assert [-1, 1] == data["bounds"]
    assert {x: peak(x) for x in recorded.learner.data} == dict(recorded.learner.data)
    assert len(recorded.learner.data) == len({x for x, *_ in points}) == len(points) >= 30
    for x, y, *_ in points:
        assert y == pytest.approx(peak(x), rel=1e-3)
    assert data["truth"] == pytest.approx(peak(np.linspace(-1, 1, 2001)), rel=1e-5)

    for worker in range(replay.workers):
        own = [(began, ended) for *_, lane, began, ended in points if lane == worker]
        assert own
        assert all(ended - began >= 0.02 for began, ended in own)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))

    assert repr(replay) in html
    assert re.match(rf"{len(points)} points in .* on {replay.workers} workers", repr(replay))
    assert replay.error < replay.grid_error / 2


def test_mean_error_is_that_of_the_lines_between_the_points(helper):
    recorded = helper["record"](peak, bounds=(-1, 1))
    adaptive.runner.simple(recorded, npoints_goal=60)
    replay = helper["Replay"](recorded, truth=peak)
    assert 1 == replay.workers
    # Against another function, the same points are wrong by about its distance.
    other = helper["Replay"](recorded, truth=lambda x: peak(x) + 1)
    assert replay.error < 0.01 and 0.9 < other.error < 1.1
    assert "error" not in repr(helper["Replay"](recorded))
