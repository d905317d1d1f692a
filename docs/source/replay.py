import json
import os
import threading
import time
from operator import itemgetter

import adaptive
import numpy as np


def record(function, bounds):
    """Return a Learner1D that keeps who computed each point, and when."""

    def timed(x):
        began = time.time()
        y = function(x)
        worker = f"{os.getpid()}.{threading.get_ident()}"
        return y, worker, began, time.time()

    learner = adaptive.Learner1D(timed, bounds)
    return adaptive.DataSaver(learner, arg_picker=itemgetter(0))


class Replay:
    """A recorded run; with `truth`, a uniform grid races beside it."""

    def __init__(self, run, truth=None):
        self.bounds = run.learner.bounds
        # (x, (y, worker, began, ended)), the first to begin first
        calls = sorted(run.extra_data.items(), key=lambda c: c[1][2])
        workers = list(dict.fromkeys(call[1][1] for call in calls))
        start = calls[0][1][2]
        self.points = [
            (x, y, workers.index(worker), began - start, ended - start)
            for x, (y, worker, began, ended) in calls
        ]
        self.seconds = max(point[4] for point in self.points)
        self.workers = len(workers)
        busy = sum(point[4] - point[3] for point in self.points)
        self.busy = busy / (self.workers * self.seconds)
        self.truth = None
        if truth is not None:
            self.axis = np.linspace(*self.bounds, 2001)
            self.truth = truth(self.axis)
            self.grid = np.linspace(*self.bounds, len(calls))
            own = np.array(sorted(point[:2] for point in self.points)).T
            self.error = self.mean_error(*own)
            self.grid_error = self.mean_error(self.grid, truth(self.grid))

    def mean_error(self, x, y):
        return np.abs(np.interp(self.axis, x, y) - self.truth).mean()

    def __repr__(self):
        text = f"{len(self.points)} points in {self.seconds:.2f} s on {self.workers} workers, "
        text += f"which computed {100 * self.busy:.0f} % of the time."
        if self.truth is not None:
            own, grid = (
                np.format_float_positional(error, 2, fractional=False)
                for error in (self.error, self.grid_error)
            )
            text += f" The mean error is {own}, and {grid} on a uniform grid."
        return text

    def _repr_html_(self):
        def short(n):  # six digits are enough for a picture
            return float(f"{n:.6g}")

        data = {"bounds": self.bounds, "points": [[*map(short, p)] for p in self.points]}
        if self.truth is not None:
            data["truth"] = [*map(short, self.truth)]
        text = json.dumps(data, separators=(",", ":"))
        return (
            '<figure class="replay">'
            f'<script type="application/json">{text}</script>'
            f"<figcaption>{self}</figcaption></figure>"
        )
