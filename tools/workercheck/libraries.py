"""Every library that carries work between processes, one entry each.

Adding a library is adding an entry; no other module names one. The recorder reads the entries
inside every watched process, the judge reads them afterwards, so that this module imports nothing.

What the recorder does at a function of a library is told by its role, as ``(path, role)``: the
path of the function within its module, and the name of a handler in `workercheck.recorder.roles`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias

    Functions: TypeAlias = Mapping[str, Iterable[tuple[str, str]]]
    """By module: paths of functions within it, each with a role."""


class Carrier:
    """What carries work to other processes, as the text of a page shows it.

    Parameters are written as a line of names in their order: ``fn! *args! timeout``. What is sent
    to a worker has an exclamation mark, what sends each of its elements a plus sign, and what names
    the start method an at sign. Only a number other than 1 for a parameter with a number sign makes
    worker processes, and none is told of where a parameter with a tilde is given. A caret marks the
    parameter that may name the library whose workers do it.

    Parameters
    ----------
    name : str
        Its name within the modules of its library, such as ``Pool``.
    modules : iterable of str
        The modules that a page may take it from.
    parameters : str
        What it is made with.
    methods : mapping of str to str
        The parameters of its methods that hand work out.
    starts : str
        When it sends what it is made with: ``made``, ``start()``, or ``used`` with its first work.
    role : str
        ``executor``; ``function``, which hands work out by itself; ``process``, whose subclasses
        are sent as they are; ``manager``, of whose objects every method sends its arguments;
        ``server``, which is a process and a manager; ``channel``, from which a process takes what
        it has been handed to; ``pipe``, two ends of one; ``cluster``, whose other methods and
        elements hand work out as it does; ``settings``, which tell within a ``with`` block what
        its library is made with, and after which otherwise nothing is told of the library.
    start_method : str
        How it starts workers, where another way than its library's.
    """

    def __init__(
        self,
        name: str,
        modules: "Iterable[str]",
        parameters: str = "",
        methods: "Mapping[str, str] | None" = None,
        *,
        starts: str = "used",
        role: str = "executor",
        start_method: str = "",
    ) -> None:
        self.name = name
        self.modules = tuple(modules)
        self.parameters = parameters
        self.methods = dict(methods or {})
        self.starts = starts
        self.role = role
        self.start_method = start_method


class Library:
    """What has to be known of a library that carries work between processes.

    Parameters
    ----------
    name : str
        The name under which a reader knows it.
    modules : iterable of str
        Its modules, by the beginning of their names: what they load or pickle is a message.
    public : mapping of str to str
        The public name of an executor by a part of its module or class, the first match counts.
    functions : mapping
        The functions to watch, by module, each with its role.
    wrapped : mapping of str to iterable of str
        The functions that pickle a message, by module: they are wrapped, because only a wrapper
        learns of an error.
    lookups : mapping of str to iterable of str
        The functions by which a worker finds what it was sent the name of, by module: what one of
        them cannot find could not be loaded.
    for_reader : iterable of str
        Modules whose processes run a function of the reader's, to whom they tell how it ended.
    runs : iterable of str
        The functions of its modules that call a task, with their module: a task that loads or
        pickles something by itself, such as ``submit(pickle.loads, data)``, is no message.
    senders : mapping
        The functions within which a message is sent for work that was handed out before, by
        module, each with how its place is found: see `workercheck.recorder.roles.SENDERS`.
    numbered : mapping of str to tuple
        The classes of the messages that carry the number of their work as ``work_id``, by module:
        that of a task, and that of its result.
    commands : iterable of tuple
        Regular expression on the command line of a worker, and the name of how it was started.
    service : str
        Regular expression on the command line of what it starts beside its workers.
    stop : str
        The call that ends the processes that it started.
    one_call : iterable of str
        The functions that its processes run for one call each: such a process has work from its
        start, and no message of its own where it is forked.
    answers : bool
        Whether a worker answers each message with a message: one that ends in between had work.
    reruns : bool
        Whether it gives the work of a worker that died to another one.
    by_value : bool
        Whether it pickles functions of the page by value.
    falls_back : iterable of str
        Modules that try the plain ``pickle.dumps`` first, and something else where it fails.
    picklers : iterable of str
        Modules that pickle and load, and send nothing: the reader may call them by hand.
    does_without : iterable of str
        Functions that go on without what they try to load, by their full names.
    result_readers : iterable of str
        Functions that load what another process answers, and never work.
    task_readers : iterable of str
        Modules that load what the page sends, though they may run in the page's own process.
    housekeeping : iterable of str
        Packages whose tasks of `asyncio` are no work of the page.
    carriers : callable
        Returns each `Carrier` of its work, for who reads a page without running it: those that run
        one import this module at the start of every process, and need none.
    start_method : str or None
        How it starts workers by itself, empty where `multiprocessing` decides, None where the text
        of a page does not tell whether they are other processes.
    imports_main : bool
        Whether the workers of its carriers, where they are no copies, import the script that
        started them.
    caches_by_value : bool
        Whether it pickles by value what `functools.lru_cache` returns as well.
    """

    def __init__(
        self,
        name: str,
        *,
        modules: "Iterable[str]",
        public: "Mapping[str, str] | None" = None,
        functions: "Functions | None" = None,
        wrapped: "Mapping[str, Iterable[str]] | None" = None,
        lookups: "Mapping[str, Iterable[str]] | None" = None,
        for_reader: "Iterable[str]" = (),
        runs: "Iterable[str]" = (),
        senders: "Functions | None" = None,
        numbered: "Mapping[str, tuple[str, str]] | None" = None,
        commands: "Iterable[tuple[str, str]]" = (),
        service: str = "",
        stop: str = "",
        one_call: "Iterable[str]" = (),
        answers: bool = False,
        reruns: bool = False,
        by_value: bool = False,
        falls_back: "Iterable[str]" = (),
        picklers: "Iterable[str]" = (),
        does_without: "Iterable[str]" = (),
        result_readers: "Iterable[str]" = (),
        task_readers: "Iterable[str]" = (),
        housekeeping: "Iterable[str]" = (),
        carriers: "Callable[[], Iterable[Carrier]]" = tuple,
        start_method: "str | None" = "",
        imports_main: bool = True,
        caches_by_value: bool = False,
    ) -> None:
        self.name = name
        self.modules = tuple(modules)
        self.public = dict(public or {})
        self.functions = dict(functions or {})
        self.wrapped = dict(wrapped or {})
        self.lookups = dict(lookups or {})
        self.for_reader = tuple(for_reader)
        self.runs = tuple(runs)
        self.senders = dict(senders or {})
        self.numbered = dict(numbered or {})
        self.commands = tuple(commands)
        self.service = service
        self.stop = stop
        self.one_call = frozenset(one_call)
        self.answers = answers
        self.reruns = reruns
        self.by_value = by_value
        self.falls_back = tuple(falls_back)
        self.picklers = tuple(picklers)
        self.does_without = tuple(does_without)
        self.result_readers = tuple(result_readers)
        self.task_readers = tuple(task_readers)
        self.housekeeping = tuple(housekeeping)
        self.carriers = carriers
        self.start_method = start_method
        self.imports_main = imports_main
        self.caches_by_value = caches_by_value


_FUTURE = (
    ("Future.set_exception", "future-failed"),
    ("Future._Future__get_result", "future-raises"),
    ("Future.exception", "future-answers"),
    ("Future.__repr__", "failure-read"),
    ("Future._get_snapshot", "future-answers"),  # by which asyncio asks, since Python 3.15
)

_EXECUTOR = (
    ("ProcessPoolExecutor.submit", "submit-numbered fn"),
    ("_SafeQueue.put", "tasks-put"),
    ("_ExecutorManagerThread.run", "manager-thread"),
    ("_ExecutorManagerThread.terminate_broken", "pool-broken"),
)

_NUMBERED = ("_CallItem", "_ResultItem")


def _multiprocessing(package: str) -> "dict[str, list[tuple[str, str]]]":
    """Return the functions of `multiprocessing`, or of a package with the same modules."""
    return {
        f"{package}.pool": [
            ("ApplyResult.__init__", "result-made"),
            ("IMapIterator.__init__", "result-made"),
            ("ApplyResult._set", "result-set"),
            ("MapResult._set", "result-set"),
            ("IMapIterator._set", "item-set"),
            ("IMapUnorderedIterator._set", "item-set"),
            ("IMapIterator.next", "item-raises"),
            ("ApplyResult.get", "result-raises"),
            ("ApplyResult.successful", "success-read"),
            ("Pool.__init__", "pool-made"),
            ("Pool._handle_results", "callback-error-kept"),  # where it is a KeyError
        ],
        f"{package}.process": [
            ("BaseProcess.start", "process-start"),
            ("BaseProcess.start", "process-made"),
            ("BaseProcess.exitcode", "exitcode-read"),
            ("BaseProcess.__repr__", "failure-shown"),
            ("BaseProcess.close", "process-closed"),
            ("BaseProcess._bootstrap", "exit-kept"),
        ],
        f"{package}.util": [("_exit_function", "process-ends")],
        f"{package}.queues": [
            ("Queue.put", "object-put"),
            ("JoinableQueue.put", "object-put"),
        ],
        f"{package}.popen_fork": [("Popen.poll", "child-polled")],
        f"{package}.popen_forkserver": [("Popen.poll", "child-polled")],
    }


def _loky(package: str) -> "dict[str, tuple[tuple[str, str], ...]]":
    return {
        f"{package}.process_executor": _EXECUTOR,
        f"{package}.backend.popen_loky_posix": (("Popen.poll", "child-polled"),),
    }


def _senders(package: str) -> "dict[str, tuple[tuple[str, str], ...]]":
    return {
        f"{package}.pool": (("Pool._handle_tasks", "pool-task"),),
        f"{package}.queues": (("Queue._feed", "queued-object"),),
    }


def _runs(package: str) -> tuple[str, ...]:
    """Return the functions of `multiprocessing`, or of a package like it, that call a task."""
    return (
        f"{package}.pool.worker",
        f"{package}.pool.mapstar",
        f"{package}.pool.starmapstar",
        f"{package}.process.BaseProcess.run",
        f"{package}.managers.Server.create",
        f"{package}.managers.Server.serve_client",
    )


def _loky_runs(package: str) -> tuple[str, ...]:
    return (
        f"{package}.process_executor._CallItem.__call__",
        f"{package}.process_executor._process_chunk",
    )


_LOKY_WRAPPED = ("dumps", "dump")

_SUBMIT = {"submit": "fn! *args! **kwargs!", "map": "fn! *iterables+ timeout chunksize"}


def _carriers(package: str) -> "tuple[Carrier, ...]":
    """Return what carries work in `multiprocessing`, or in a package with the same modules."""
    whole = (package, f"{package}.context")
    apply, over = "func! args+ kwds+ callback error_callback", "func! iterable+ chunksize"
    return (
        Carrier(
            "Pool",
            (*whole, f"{package}.pool"),
            "processes initializer! initargs+ maxtasksperchild context@",
            {
                "apply": "func! args+ kwds+",
                "apply_async": apply,
                **dict.fromkeys(("map", "starmap", "imap", "imap_unordered"), over),
                **dict.fromkeys(("map_async", "starmap_async"), over),
            },
            starts="made",
        ),
        Carrier(
            "Process",
            (*whole, f"{package}.process"),
            "group target! name args+ kwargs+",
            {"start": ""},
            starts="start()",
            role="process",
        ),
        Carrier("Manager", whole, role="manager"),
        Carrier(
            "BaseManager",
            (f"{package}.managers",),
            "address authkey serializer ctx@",
            {"start": ""},
            starts="start()",
            role="server",
        ),
        *(
            Carrier(name, (package, f"{package}.queues"), "", methods, role="channel")
            for name, methods in (
                ("Queue", {"put": "obj!", "put_nowait": "obj!"}),
                ("JoinableQueue", {"put": "obj!", "put_nowait": "obj!"}),
                ("SimpleQueue", {"put": "obj!"}),
            )
        ),
        Carrier("Pipe", (package, f"{package}.connection"), "", {"send": "obj!"}, role="pipe"),
    )


def _loky_carriers(package: str) -> "tuple[Carrier, ...]":
    parameters = "max_workers job_reducers result_reducers timeout context initializer! initargs+"
    return (
        Carrier("get_reusable_executor", (package, f"{package}.reusable_executor"), "", _SUBMIT),
        Carrier(
            "ProcessPoolExecutor", (package, f"{package}.process_executor"), parameters, _SUBMIT
        ),
    )


LIBRARIES = (
    Library(
        "joblib",
        modules=("joblib.externals.loky.",),
        public={"joblib": "joblib"},
        functions={
            **_loky("joblib.externals.loky"),
            "joblib.parallel": (
                ("BatchCompletionCallBack._register_outcome", "batch-done"),
                ("BatchCompletionCallBack._return_or_raise", "batch-asked"),
                ("BatchCompletionCallBack.__init__", "batch-made"),
            ),
            # The queue of the backend "multiprocessing" pickles by itself.
            "joblib.pool": (
                (
                    "CustomizablePicklingQueue._make_methods.<locals>.send",
                    "message-written buffer",
                ),
            ),
        },
        runs=_loky_runs("joblib.externals.loky"),
        senders={"joblib.externals.loky.backend.queues": (("Queue._feed", "queued-object"),)},
        numbered={"joblib.externals.loky.process_executor": _NUMBERED},
        wrapped={
            "joblib.externals.loky.backend.reduction": _LOKY_WRAPPED,
            "joblib.externals.cloudpickle.cloudpickle": ("dumps",),
        },
        answers=True,
        by_value=True,
        carriers=lambda: (
            *_loky_carriers("joblib.externals.loky"),
            Carrier(
                "Parallel",
                ("joblib", "joblib.parallel"),
                "n_jobs# backend^ return_as verbose timeout pre_dispatch batch_size temp_folder "
                "max_nbytes mmap_mode prefer~ require~",
                {"__call__": "iterable+"},
            ),
            *(
                Carrier(name, ("joblib", "joblib.parallel"), parameters, role="settings")
                for name, parameters in (
                    ("parallel_config", "backend^ n_jobs prefer~ require~"),
                    ("parallel_backend", "backend^ n_jobs"),
                    ("register_parallel_backend", ""),
                )
            ),
            # Hand their work to joblib.
            *(
                Carrier(
                    name,
                    ("sklearn.model_selection",),
                    "estimator! X! y! n_jobs# scoring!",
                    role="function",
                )
                for name in (
                    *("cross_val_score", "cross_validate", "cross_val_predict", "learning_curve"),
                    *("validation_curve", "permutation_test_score"),
                )
            ),
        ),
        imports_main=False,
    ),
    Library(
        "loky",
        modules=("loky.",),
        public={"loky": "loky"},
        functions=_loky("loky"),
        runs=_loky_runs("loky"),
        senders={"loky.backend.queues": (("Queue._feed", "queued-object"),)},
        numbered={"loky.process_executor": _NUMBERED},
        wrapped={"loky.backend.reduction": _LOKY_WRAPPED},
        commands=((r"popen_loky_posix", "loky"),),
        stop="executor.shutdown(), or get_reusable_executor().shutdown()",
        answers=True,
        by_value=True,
        carriers=lambda: _loky_carriers("loky"),
        imports_main=False,
    ),
    Library(
        "concurrent.futures",
        modules=("concurrent.futures.", "concurrent.interpreters"),
        public={
            "ThreadPoolExecutor": "concurrent.futures.ThreadPoolExecutor",
            "concurrent.futures.thread": "concurrent.futures.ThreadPoolExecutor",
            "InterpreterPoolExecutor": "concurrent.futures.InterpreterPoolExecutor",
            "concurrent.futures.interpreter": "concurrent.futures.InterpreterPoolExecutor",
            "concurrent.interpreters": "concurrent.interpreters",
            "ProcessPoolExecutor": "concurrent.futures.ProcessPoolExecutor",
            "concurrent.futures": "concurrent.futures.ProcessPoolExecutor",
        },
        functions={
            "concurrent.futures._base": (
                *_FUTURE,
                ("Executor.map", "map-begins"),
                ("Executor.map", "map-ends"),
            ),
            "concurrent.futures.process": _EXECUTOR,
            "concurrent.futures.thread": (
                ("ThreadPoolExecutor.__init__", "thread-pool-made"),
                ("ThreadPoolExecutor.submit", "submit fn"),
            ),
            "concurrent.interpreters": (
                ("Interpreter.call_in_thread", "thread-returned callable"),
            ),
        },
        runs=(
            "concurrent.futures.process._process_worker",
            "concurrent.futures.process._process_chunk",
            "concurrent.futures.thread._WorkItem.run",
            "concurrent.futures.thread.WorkerContext.run",
            "concurrent.futures.interpreter.do_call",
        ),
        # The thread of a pool sends what its interpreter is to run.
        senders={"concurrent.futures.thread": (("_WorkItem.run", "future self.future"),)},
        numbered={"concurrent.futures.process": _NUMBERED},
        answers=True,
        result_readers=("wait_result_broken_or_wakeup",),
        carriers=lambda: (
            Carrier(
                "ProcessPoolExecutor",
                ("concurrent.futures", "concurrent.futures.process"),
                "max_workers mp_context@ initializer! initargs+ max_tasks_per_child",
                _SUBMIT,
            ),
            Carrier(
                "InterpreterPoolExecutor",
                ("concurrent.futures", "concurrent.futures.interpreter"),
                "max_workers thread_name_prefix initializer! initargs+",
                _SUBMIT,
                start_method="interpreter",
            ),
            # Makes such an executor of its own.
            Carrier(
                "process_map",
                ("tqdm.contrib.concurrent",),
                "fn! *iterables+ max_workers chunksize",
                role="function",
            ),
        ),
    ),
    Library(
        "dask",
        modules=("dask.multiprocessing", "dask.local"),
        public={"dask.": "the scheduler 'processes' of dask"},
        by_value=True,
    ),
    Library(
        "torch.multiprocessing",
        modules=("torch.multiprocessing.",),
        for_reader=("torch.multiprocessing.spawn",),
        public={"torch": "torch.multiprocessing"},
        carriers=lambda: (
            *_carriers("torch.multiprocessing"),
            Carrier(
                "spawn",
                ("torch.multiprocessing", "torch.multiprocessing.spawn"),
                "fn! args+",
                role="function",
                start_method="spawn",
            ),
        ),
    ),
    Library(
        "multiprocessing",
        modules=("multiprocessing.",),
        public={
            "multiprocessing.pool": "multiprocessing.Pool",
            "multiprocessing.managers": "multiprocessing.Manager",
            "multiprocessing.queues": "multiprocessing.Queue",
            "multiprocessing.connection": "multiprocessing.Pipe",
            "multiprocessing": "multiprocessing.Process",
        },
        functions=_multiprocessing("multiprocessing"),
        runs=_runs("multiprocessing"),
        senders=_senders("multiprocessing"),
        wrapped={"multiprocessing.reduction": ("ForkingPickler.dumps", "dump")},
        # The server of a forkserver is no worker: its forked copies are.
        commands=((r"multiprocessing\.spawn|--multiprocessing-fork", "spawn"),),
        service=r"-c (?:import sys; )?from (?:multiprocessing|multiprocess|billiard)\.\w+ import",
        answers=True,
        result_readers=("_handle_results", "_callmethod", "dispatch"),
        carriers=lambda: (
            *_carriers("multiprocessing"),
            # Make a pool of their own.
            Carrier(
                "differential_evolution",
                ("scipy.optimize",),
                "func! bounds args+ strategy maxiter popsize tol mutation recombination rng "
                "callback disp polish init atol updating workers#",
                role="function",
            ),
            Carrier(
                "brute",
                ("scipy.optimize",),
                "func! ranges args+ Ns full_output finish disp workers#",
                role="function",
            ),
        ),
    ),
    Library(
        "multiprocess",
        modules=("multiprocess.",),
        public={
            "multiprocess.pool": "multiprocess.Pool",
            "multiprocess.managers": "multiprocess.Manager",
            "multiprocess.queues": "multiprocess.Queue",
            "multiprocess.connection": "multiprocess.Pipe",
            "multiprocess.": "multiprocess.Process",
        },
        functions=_multiprocessing("multiprocess"),
        runs=_runs("multiprocess"),
        senders=_senders("multiprocess"),
        wrapped={"multiprocess.reduction": ("ForkingPickler.dumps", "dump")},
        answers=True,
        by_value=True,
        carriers=lambda: _carriers("multiprocess"),
        start_method="fork",
        caches_by_value=True,
    ),
    Library(
        "billiard",
        modules=("billiard.",),
        public={"billiard": "billiard.Pool"},
        functions={
            **_multiprocessing("billiard"),
            "billiard.queues": [
                *_multiprocessing("billiard")["billiard.queues"],
                ("_SimpleQueue.put", "task-acknowledged"),
            ],
        },
        runs=_runs("billiard"),
        senders={
            **_senders("billiard"),
            "billiard.pool": (("TaskHandler.body", "pool-task"),),
        },
        wrapped={"billiard.reduction": ("ForkingPickler.dumps", "dump")},
        answers=True,
        result_readers=("on_state_change", "_process_result", "handle_event"),
        carriers=lambda: _carriers("billiard"),
        start_method="fork",
    ),
    Library(
        "dask.distributed",
        modules=("distributed.",),
        public={"distributed": "dask.distributed"},
        functions={
            "distributed.client": (
                ("Client.submit", "keyed-submitted func"),
                ("Client.map", "keyed-submitted func"),
                ("Client._graph_to_futures", "keyed-graph-submitted"),
                ("FutureState.finish", "keyed-finished"),
                ("FutureState.set_error", "keyed-failed"),
                ("Future.status", "keyed-status-read"),
                ("Future.__repr__", "keyed-shown"),
                ("Future._repr_html_", "keyed-shown"),
                ("Client._gather", "keyed-gathered"),
                ("fire_and_forget", "keyed-sent-off"),
            ),
            "distributed.worker": (("_run_task", "keyed-begins"), ("_run_task", "keyed-ends")),
            "distributed.actor": (
                ("Actor.__getattr__.<locals>.func", "method-called"),
                ("ActorFuture._set_result", "method-answered"),
                ("ActorFuture._result", "wrapped-asked _event"),
            ),
            "distributed.cfexecutor": (("ClientExecutor.submit", "submit fn"),),
            "distributed.scheduler": (("SchedulerState._propagate_erred", "keyed-erred"),),
            # A nanny waits for none but those that it has asked to close. One that is still
            # starting stumbles over that, and exits with 1.
            "distributed.process": (("AsyncProcess.join", "process-asked-to-end"),),
            "distributed.protocol.pickle": (("dumps", "message-made x"),),
        },
        wrapped={"cloudpickle.cloudpickle": ("dumps",)},
        # No folder of somebody's that is called so.
        commands=((r"(?:^|[ /])dask[ -]worker(?= |$)|\bdistributed\.cli\.dask_worker\b", "dask"),),
        service=r"(?:^|[ /])dask[ -]scheduler(?= |$)|-m (?:dask|distributed)(?=[ .]|$)",
        stop="client.shutdown(), or cluster.close()",
        reruns=True,
        by_value=True,
        falls_back=("distributed.protocol.pickle",),
        picklers=("distributed.protocol",),
        does_without=("distributed.client.Client._handle_key_in_memory",),  # the type of a result
        result_readers=("_handle_report",),
        task_readers=("distributed.scheduler", "distributed.worker", "distributed.nanny"),
        housekeeping=("distributed.", "tornado."),
        carriers=lambda: (
            # A client of a cluster that is there already starts no workers.
            *(
                Carrier(
                    name,
                    ("dask.distributed", "distributed"),
                    parameters,
                    {"submit": "func! *args! **kwargs!", "map": "func! *iterables+"},
                    starts="made",
                    role="cluster",
                )
                for name, parameters in (
                    ("Client", "address@ timeout set_as_default scheduler_file@ processes@"),
                    ("LocalCluster", "name n_workers threads_per_worker processes@"),
                )
            ),
            # Its clients find the scheduler that it has started.
            Carrier("initialize", ("dask_mpi", "dask_mpi.core"), role="settings"),
        ),
        start_method="spawn",
    ),
    Library(
        "ipyparallel",
        modules=("ipyparallel.",),
        public={"ipyparallel": "ipyparallel"},
        picklers=("ipyparallel.serialize",),
        functions={
            "ipyparallel.client.view": (
                ("DirectView._really_apply", "submit f"),
                ("LoadBalancedView._really_apply", "submit f"),
                ("DirectView.execute", "submit f"),  # a text, which has no name
            ),
            # Hands out a piece for each engine or element, and returns one result for all.
            "ipyparallel.client.remotefunction": (
                ("ParallelFunction.__call__", "map-of-begins func"),
                ("ParallelFunction.__call__", "map-ends"),
            ),
            "ipyparallel.client.asyncresult": (
                ("AsyncMapResult.__init__", "whole-made"),
                # It returns errors as values, or raises what `exception` returns, or, where it was
                # told when to return, what a part of it raises.
                ("AsyncResult.get", "future-answers"),
                ("AsyncResult.get", "result-asked-with return_when"),
                ("AsyncMapResult._yield_child_results", "result-asked"),
                ("AsyncResult.successful", "success-read"),
                ("AsyncResult.__repr__", "failure-read"),
            ),
            # What a task raises is sent back without a pickle.
            "ipyparallel.engine.kernel": (("IPythonParallelKernel.do_apply", "task-done"),),
        },
        commands=((r"\bipyparallel\.engine(?!\.)", "ipyparallel"),),
        service=r"-m ipyparallel\b",
        stop="cluster.stop_cluster_sync(), or a with block",
        answers=True,
        by_value=True,
        housekeeping=("ipyparallel.", "ipykernel.", "jupyter_client.", "tornado.", "zmq."),
        carriers=lambda: tuple(
            Carrier(
                name,
                ("ipyparallel",),
                "",
                {
                    **dict.fromkeys(("apply", "apply_sync", "apply_async"), "f! *args! **kwargs!"),
                    **dict.fromkeys(("map", "map_sync", "map_async"), "f! *sequences+"),
                },
                role="cluster",
            )
            for name in ("Client", "Cluster")
        ),
        start_method=None,
    ),
    Library(
        "mpi4py.futures",
        modules=("mpi4py.",),
        public={"mpi4py": "mpi4py.futures"},
        functions={"mpi4py.futures.pool": (("MPIPoolExecutor.submit", "submit fn"),)},
        commands=((r"-m mpi4py\.futures\b", "mpi4py"),),
    ),
    Library(
        "pebble",
        modules=("pebble.",),
        public={
            "pebble.concurrent": "pebble.concurrent",
            "pebble.asynchronous": "pebble.asynchronous",
            "pebble": "pebble.ProcessPool",
        },
        functions={
            # What the decorators make of a function: each call starts a process, or a thread.
            "pebble.concurrent.process": (
                ("_process_wrapper.<locals>.wrapper", "submit function"),
            ),
            "pebble.concurrent.thread": (("_thread_wrapper.<locals>.wrapper", "submit function"),),
            "pebble.asynchronous.process": (
                ("_process_wrapper.<locals>.wrapper", "loop-future-made function"),
            ),
            "pebble.asynchronous.thread": (
                ("_thread_wrapper.<locals>.wrapper", "loop-future-made function"),
            ),
            "pebble.pool.process": (
                ("ProcessPool.schedule", "submit function"),
                ("ProcessPool.submit", "submit function"),
            ),
            "pebble.pool.thread": (
                ("ThreadPool.schedule", "submit function"),
                ("ThreadPool.submit", "submit function"),
            ),
            # A future of an iterator over the results of chunks.
            "pebble.pool.base_pool": (
                ("MapFuture.__init__", "result-made"),
                ("ProcessMapFuture.__init__", "result-made"),
                ("map_results.<locals>.done_map", "chunk-done"),
                ("MapResults.next", "item-asked"),
                ("run_initializer", "initializer-error-kept"),
            ),
            # A worker says that it has a task before it runs it.
            "pebble.common.process": (("process_execute", "task-begins"),),
        },
        # Of a decorated function, only the name is sent: unless forked, a worker imports it.
        lookups={"pebble.common.process": ("_function_lookup",)},
        senders={"pebble.pool.process": (("WorkerManager.dispatch", "future task.future"),)},
        one_call=("pebble.common.process.function_handler",),
        answers=True,
        carriers=lambda: (
            Carrier(
                "ProcessPool",
                ("pebble", "pebble.pool"),
                "max_workers max_tasks initializer! initargs+ context@",
                {
                    "schedule": "function! args+ kwargs+ timeout",
                    "submit": "function! timeout *args! **kwargs!",
                    "map": "function! *iterables+ timeout chunksize",
                },
            ),
        ),
    ),
    Library(
        "pathos",
        modules=("pathos.", "ppft."),
        public={"ppft": "pathos.ParallelPool", "pathos": "pathos"},
        functions={
            "ppft._pp": (
                ("Server.submit", "result-returned func"),
                ("_Task.finalize", "result-printed An error has"),
                ("_Task.__call__", "result-asked"),
            ),
            "pathos.helpers.pp_helper": (
                ("ApplyResult.__call__", "wrapped-asked _task"),
                ("ApplyResult.successful", "wrapped-asked _task"),
            ),
        },
        commands=((r"-m ppft\b", "pathos"),),
        stop="pool.clear()",
        by_value=True,
    ),
    Library(
        "mpire",
        modules=("mpire.",),
        public={"mpire": "mpire.WorkerPool"},
        functions={
            "mpire.pool": (
                ("WorkerPool.apply_async", "result-returned func"),
                ("WorkerPool.terminate", "results-given-up"),
                ("WorkerPool._handle_exception", "results-raised"),
                ("WorkerPool._results_handler", "callback-error-kept"),
            ),
            "mpire.async_result": (
                ("AsyncResult._set", "result-set"),
                ("AsyncResult.get", "result-raises"),
                ("AsyncResult.successful", "success-read"),
                ("UnorderedAsyncResultIterator.__init__", "result-made"),
                ("UnorderedAsyncResultIterator._set", "result-set"),
                ("UnorderedAsyncResultIterator.get_exception", "result-asked"),
            ),
        },
    ),
    Library(
        "anyio",
        modules=("anyio.to_process", "anyio.to_interpreter"),
        public={"anyio": "anyio"},
        functions={
            "anyio.from_thread": (("BlockingPortal.start_task_soon", "submit func"),),
            # A worker reads its tasks from a pipe; this waits for the answer of one.
            "anyio.to_process": (
                ("run_sync.<locals>.send_raw_command", "answer-missing process pickled_cmd"),
            ),
        },
        commands=((r"-m anyio\.to_process\b", "anyio"),),
        answers=True,
        carriers=lambda: (
            Carrier("run_sync", ("anyio.to_process",), "func! *args!", role="function"),
        ),
        start_method="spawn",
    ),
    Library(
        "ray",
        # Its libraries for data, tuning and serving use these, and look after their own tasks.
        modules=(
            *("ray._private.", "ray._raylet", "ray.actor", "ray.cloudpickle", "ray.exceptions"),
            *("ray.remote_function", "ray.util.tracing."),
        ),
        public={"ray.": "ray"},
        functions={
            "ray.remote_function": (
                (
                    "RemoteFunction._remote",
                    "afar-submitted self._function task_id().hex().lstrip(f) retry_exceptions",
                ),
            ),
            "ray.actor": (
                (
                    "ActorHandle._actor_method_call",
                    "afar-submitted - task_id().hex().lstrip(f) retry_exceptions",
                ),
                # The task that makes an actor is named like the actor, after a row of "f".
                (
                    "ActorClass._remote",
                    "afar-submitted self.__ray_metadata__.modified_class.__ray_actor_class__ "
                    "_actor_id.hex().lstrip(f) -",
                ),
            ),
            "ray.exceptions": (
                (
                    "RayTaskError.__init__",
                    "afar-failed cause ray._private.worker "
                    "global_worker.current_task_id.hex().lstrip(f)",
                ),
            ),
            "ray._private.serialization": (
                (
                    "SerializationContext._deserialize_object",
                    "afar-looked-at object_ref.task_id().hex().lstrip(f) "
                    "object_ref.task_id().actor_id().hex().lstrip(f) pid cause",
                ),
                (
                    "SerializationContext._deserialize_object",
                    # An error of that type has no more to say, that of an actor says how it ended.
                    "afar-died object_ref.task_id().hex().lstrip(f) "
                    "WorkerCrashedError OutOfMemoryError SYSTEM_ERROR",
                ),
            ),
            "ray.util.multiprocessing.pool": (
                ("Pool.apply_async", "result-returned func"),
                ("Pool.map_async", "result-returned func"),
                ("Pool.starmap_async", "result-returned func"),
                ("ResultThread.run", "results-collected _result_thread"),
                ("AsyncResult.get", "result-asked"),
                ("AsyncResult.successful", "success-read"),
            ),
        },
        wrapped={"ray.cloudpickle.cloudpickle": ("dumps",)},
        commands=((r"\bray\b.*default_worker\.py", "ray"),),
        service=r"\braylet\b|\bgcs_server\b",
        stop="ray.shutdown()",
        by_value=True,
    ),
    Library(
        "executorlib",
        modules=("executorlib.",),
        public={"executorlib": "executorlib"},
        functions={
            "executorlib.executor.base": (("BaseExecutor.submit", "submit fn"),),
            "executorlib.task_scheduler.base": (("TaskSchedulerBase.submit", "submit fn"),),
        },
        senders={
            "executorlib.task_scheduler.interactive.shared": (
                ("execute_task_dict", "future future_obj"),
            ),
        },
        commands=((r"\bexecutorlib[/\\]backend[/\\]", "executorlib"),),
        answers=True,
        by_value=True,
    ),
    Library(
        "parsl",
        modules=("parsl.",),
        public={"parsl": "parsl"},
        picklers=("parsl.serialize",),
        functions={
            "parsl.dataflow.dflow": (("DataFlowKernel.submit", "submit func"),),
            "parsl.serialize.concretes": (
                ("DillCallableSerializer.serialize", "message-made data"),
                ("DillSerializer.serialize", "message-made data"),
            ),
        },
        commands=((r"\bprocess_worker_pool\.py\b", "parsl"),),
        service=r"\binterchange\.py\b",
        stop="parsl.dfk().cleanup()",
        by_value=True,
    ),
)

ALWAYS: "Functions" = {
    "ipykernel.kernelapp": (("IPKernelApp.start", "kernel-starts"),),
    # What a manager calls first, through itself, when it ends a kernel.
    "jupyter_client.manager": (
        ("KernelManager._async_interrupt_kernel", "kernel-interrupted"),
        ("KernelManager._async_post_start_kernel", "kernel-launched"),
    ),
    "marimo._runtime.runtime": (("launch_kernel", "program-kernel-starts"),),
    "marimo._session.managers.kernel": (
        ("KernelManagerImpl.close_kernel", "program-kernel-closed"),
    ),
    "marimo._session.managers.ipc": (
        ("IPCKernelManagerImpl.close_kernel", "program-kernel-closed"),
    ),
    "IPython.core.interactiveshell": (
        ("InteractiveShell.safe_execfile", "file-runs"),
        ("InteractiveShell.safe_execfile_ipy", "file-runs"),
    ),
    "asyncio.base_events": (
        ("BaseEventLoop.create_task", "task-made"),
        ("BaseEventLoop.run_in_executor", "loop-future-made func"),
        ("BaseEventLoop.call_exception_handler", "never-retrieved"),
    ),
    # By which tasks, too, make the text that has their errors.
    "asyncio.base_futures": (("_future_repr_info", "task-read"),),
    "asyncio.futures": (("wrap_future", "loop-future-made future"),),
    "asyncio.tasks": (
        ("gather", "loop-future-made coros_or_futures"),
        ("shield", "loop-future-made arg"),
        ("run_coroutine_threadsafe", "thread-future-made"),
    ),
    "tornado.concurrent": (
        (
            "run_on_executor.<locals>.run_on_executor_decorator.<locals>.wrapper",
            "loop-future-made fn",
        ),
    ),
    "tornado.platform.asyncio": (("BaseAsyncIOLoop.run_in_executor", "loop-future-made func"),),
    "sphinx.ext.doctest": (("TestCode.__init__", "block-made"),),
    "runpy": (("_get_code_from_file", "file-runs"),),
    "subprocess": (("Popen._execute_child", "program-started"),),
    "threading": (("Thread.start", "thread-start"),),
    "traceback": (("print_exc", "error-printed"),),
    "logging": (
        ("Logger.critical", "error-logged"),
        ("Logger.exception", "callback-error-logged"),
    ),
}
"""Functions that no single library owns, of the standard library, of Jupyter, Tornado, marimo and
Sphinx, as in `Library.functions`."""

RUNNERS = {
    f"{module}.{name}": "learner! goal executor"
    for module in ("adaptive", "adaptive.runner")
    for name in ("Runner", "AsyncRunner", "BlockingRunner")
}
"""What hands work to the executor that it is given, or to `DEFAULT`: its parameters."""

DEFAULT = "loky.get_reusable_executor"
"""What makes the executor of a runner that is given none."""

DELAYED = ("joblib.delayed", "joblib.parallel.delayed")
"""What makes a call a task, which is sent where it is: `Parallel` is given the tasks."""

HOST_SERVERS = ("jupyter_server",)
"""Programs that a host starts for its notebooks, by a word of their command line.

No page starts them, and no page can end them.
"""

LAUNCHERS = (
    *HOST_SERVERS,
    *("hatch", "myst", "node", "nox", "npm", "npx", "pdm", "pip", "poetry", "pre-commit", "tox"),
    "virtualenv",
)
"""Programs that run the code of a project in other processes only, by their name or module."""

BOOTSTRAPS = ("import sys;exec(eval(sys.stdin.readline()))",)
"""What a host runs with ``python -c`` to have its own code sent to a process.

It is execnet's line, by which pytest-xdist starts its workers: such text is not the reader's.
"""

LEARNERS = ("adaptive.",)
"""Packages whose objects are sent without all but the first thing that they are made with."""

BROKEN = frozenset(
    (
        "BrokenExecutor",
        "BrokenInterpreterPool",
        "BrokenProcessPool",
        "BrokenWorkerProcess",
        "EngineError",
        "ExecutorlibSocketError",
        "KilledWorker",
        "ProcessExpired",
        "ShutdownExecutorError",
        "TerminatedWorkerError",
        "WorkerLostError",
    )
)
"""Errors that a page sees of an executor that has lost a worker."""

STARTERS = ("subprocess", "concurrent.futures.ThreadPoolExecutor")
"""What runs work without carrying messages: a library that works through it carries them."""

DISPATCHERS = frozenset(
    (
        "asyncio.events.Handle._run",
        "code.InteractiveInterpreter.runcode",
        "contextlib._BaseExitStack._create_cb_wrapper.<locals>._exit_wrapper",
        "sched.scheduler.run",
        "threading.Thread.run",
        "threading.Timer.run",
        "timeit.Timer.timeit",
        "weakref.finalize.__call__",
    )
)
"""Functions of the standard library that run what somebody gave them, and drop what it returns."""

BATCHES = {"joblib.parallel.BatchedCalls": "items"}
"""Classes whose objects are sent for several tasks, with the attribute that has these.

Each task is a tuple, with its function first.
"""

MODULES = tuple(module for library in LIBRARIES for module in library.modules)
"""Modules that carry work between processes, by the beginning of their names."""

_PACKAGES = frozenset(module.partition(".")[0] for module in MODULES)
RUNS = frozenset(function for library in LIBRARIES for function in library.runs)
RESULT_READERS = frozenset(name for library in LIBRARIES for name in library.result_readers)
NUMBERED = frozenset(
    f"{module}.{name}"
    for library in LIBRARIES
    for module, names in library.numbered.items()
    for name in names
)
FALLS_BACK = tuple(module for library in LIBRARIES for module in library.falls_back)
PICKLERS = tuple(module for library in LIBRARIES for module in library.picklers)
DOES_WITHOUT = frozenset(name for library in LIBRARIES for name in library.does_without)
FOR_READER = frozenset(module for library in LIBRARIES for module in library.for_reader)
HOUSEKEEPING = tuple(package for library in LIBRARIES for package in library.housekeeping)


def library_of(name: "str | None") -> "Library | None":
    """Return the entry whose public names, or modules, match a module or a class."""
    if name:
        for library in LIBRARIES:
            if any(part in name for part in library.public):
                return library
    return None


_CHANNELS = ("channel", "manager", "pipe", "server")
"""Roles of carriers that take objects, and no work."""


def is_channel(name: "str | None") -> bool:
    """Tell whether what has a public name is a queue, a pipe or a manager, which run no work."""
    library, carrier = library_of(name), (name or "").rpartition(".")[2]
    return library is not None and any(
        c.name == carrier and c.role in _CHANNELS for c in library.carriers()
    )


def is_of_library(name: str) -> bool:
    """Tell whether something is of a library that carries work, by its name with its module."""
    return name.partition(".")[0] in _PACKAGES


def library_of_worker(target: "str | None", owned: bool) -> "Library | None":
    """Return the entry of the library whose worker a process is.

    Parameters
    ----------
    target
        The function that the process runs, None for a program.
    owned
        Whether the reader's own code started it. The reader may run a library's function, such as
        the `get` of a Queue, in a process: that is no worker of the library's.
    """
    return None if owned or not (target or "").startswith(MODULES) else library_of(target)


def public(name: str) -> str:
    """Return the name under which a reader knows an executor, given its class or module."""
    library = library_of(name)
    if library is None:
        return name
    return next(public for part, public in library.public.items() if part in name)
