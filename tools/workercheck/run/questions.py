"""Questions of a process that is watched, and the answers of the one that watches it.

The plugin of pytest asks what became of the work that a test handed out. Only the process that
watches the command knows: it reads the evidence of all processes, and nothing that a test replaces
(`os`, `time`, `open`) reaches it. A question and an answer are a line of JSON each, with the number
of the question.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAME = "questions"
_CHUNK = 1 << 16


class Questions:
    """The end that answers, used as a context.

    Parameters
    ----------
    folder
        The folder of the run's evidence.

    Raises
    ------
    OSError
        If there can be no socket in it.
    """

    def __init__(self, folder: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            with contextlib.chdir(folder):  # the path of a socket must be short
                self._listener.bind(_NAME)
            self._listener.listen()
        except BaseException:
            self._listener.close()
            raise
        self._asking: dict[socket.socket, bytes] = {}
        """What each asking process has sent of its next question."""

    def __enter__(self) -> Questions:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sockets."""
        for one in self.sockets:
            one.close()

    @property
    def sockets(self) -> list[socket.socket]:
        """What becomes readable when there is a question."""
        return [self._listener, *self._asking]

    def answer(self, answer: Callable[[dict[str, Any]], object]) -> None:
        """Answer what has been asked.

        Parameters
        ----------
        answer
            Returns what JSON takes for a question.
        """
        for one in select.select(self.sockets, [], [], 0)[0]:
            if one is self._listener:
                self._asking[one.accept()[0]] = b""
                continue
            try:
                self._take(one, answer)
            except (OSError, ValueError, KeyError, TypeError):  # gone, or no plugin of ours
                del self._asking[one]
                one.close()

    def _take(self, one: socket.socket, answer: Callable[[dict[str, Any]], object]) -> None:
        chunk = one.recv(_CHUNK)
        if not chunk:
            raise ConnectionResetError
        *lines, self._asking[one] = (self._asking[one] + chunk).split(b"\n")
        for line in lines:
            question = json.loads(line)
            reply = {"number": question["number"], "answer": answer(question)}
            one.sendall(json.dumps(reply).encode() + b"\n")


class Asking:
    """The end that asks. What it needs is bound here, before a test can replace it.

    Parameters
    ----------
    folder
        The folder of the run's evidence.

    Raises
    ------
    OSError
        If nobody answers there.
    """

    def __init__(self, folder: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            with contextlib.chdir(folder):
                self._socket.connect(_NAME)
        except BaseException:
            self._socket.close()
            raise
        self._dumps = json.JSONEncoder().encode
        self._loads = json.JSONDecoder().decode
        self._rest = b""
        self._number = 0

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(self, **question: object) -> Any:
        """Return the answer to a question, None where nobody answers any more."""
        self._number += 1
        line = self._dumps({"number": self._number, **question}) + "\n"
        with contextlib.suppress(OSError):
            self._socket.sendall(line.encode())
            while (reply := self._line()) is not None:
                answer = self._loads(reply.decode())
                # An earlier question may have been interrupted before its answer came.
                if answer["number"] == self._number:
                    return answer["answer"]
        return None

    def _line(self) -> bytes | None:
        while b"\n" not in self._rest:
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line
