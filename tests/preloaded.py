"""Sphinx builds by forking a process that has imported Sphinx, as the imports outlast most builds.

Run as a program, it takes one build after another over a socket. Linux only.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

EXTENSIONS = ("myst_nb.sphinx_ext", "workercheck.fronts.sphinx.extension")


class Preloaded:
    """The process, and the way to have it build."""

    process: subprocess.Popen[bytes] | None = None
    """Started for the first build."""

    def _start(self) -> None:
        self.connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def build(self, arguments: list[str], cwd: Path) -> tuple[int, str]:
        """Run ``sphinx-build`` with the environment as it is; give its exit status and output."""
        request = {"arguments": arguments, "cwd": str(cwd), "environ": dict(os.environ)}
        if self.process is None:
            self._start()
        try:
            reading, writing = os.pipe()
            # Ends with the last process that writes there, as with `subprocess.run`.
            with os.fdopen(reading, encoding="utf-8", errors="backslashreplace") as output:
                try:
                    socket.send_fds(self.connection, [json.dumps(request).encode()], [writing])
                finally:
                    os.close(writing)
                log = output.read()
            return int(self.connection.recv(16)), log
        except BaseException:  # such as a test that takes too long
            if self.process is not None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.connection.close()
            self.process.wait()
            self.process = None


def next_build(connection: socket.socket) -> dict | None:
    """Return what to build in this process, which is forked for it; None where nobody asks."""
    while True:
        message, (*descriptors,), _, _ = socket.recv_fds(connection, 1 << 20, 1)
        if not message:
            return None
        pid = os.fork()
        if not pid:
            connection.close()
            for standard in (1, 2):
                os.dup2(descriptors[0], standard)
            os.close(descriptors[0])
            return json.loads(message)
        os.close(descriptors[0])
        connection.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def main() -> int:
    """Import what builds need, and build what is asked for."""
    from sphinx.application import builtin_extensions
    from sphinx.cmd.build import main as sphinx_build

    for name in (*builtin_extensions, *EXTENSIONS):
        importlib.import_module(name)
    request = next_build(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return 0
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.path[0] = request["cwd"]
    sys.argv[1:] = request["arguments"]
    return sphinx_build(request["arguments"])


if __name__ == "__main__":
    sys.exit(main())
