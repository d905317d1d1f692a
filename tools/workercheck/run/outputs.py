"""What a cell may print: a page that prints for ever must not fill the memory of the build."""

from __future__ import annotations

from typing import Any

from nbclient import NotebookClient

PRINTED = 1_000_000
"""Characters that are kept of what one cell prints."""

SHOWN = 100_000_000
"""Characters that are kept of the figures, tables and results of one cell."""


class BoundedClient(NotebookClient):
    """A client that keeps the beginning of a cell's outputs, and says where it cut them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._spent: dict[tuple[int, bool], int] = {}
        """By the position of a cell, and whether it is printed: characters so far."""

    def output(
        self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> Any:
        """Keep an output, or as much of it as there is room for."""
        if msg["msg_type"] != "error":
            msg = self._cut(msg, cell_index)
        if not msg:
            return None
        out = super().output(outs, msg, display_id, cell_index)
        return _in_one_piece(outs) or out

    def _cut(self, msg: dict[str, Any], cell_index: int) -> dict[str, Any]:
        """Return a message as far as there is room for it, an empty one where there is none."""
        content = msg["content"]
        is_printed = msg["msg_type"] == "stream"
        limit = PRINTED if is_printed else SHOWN
        before = self._spent.get((cell_index, is_printed), 0)
        after = before + _size(content["text"] if is_printed else content.get("data"))
        self._spent[cell_index, is_printed] = after
        if after <= limit:
            return msg
        if before > limit:
            return {}
        text = content["text"][: limit - before] if is_printed else ""
        what = "printed text" if is_printed else "figures, tables and results"
        note = f"workercheck cut the {what} of this cell here, after {limit:,} characters"
        return {
            **msg,
            "msg_type": "stream",
            "header": {**msg["header"], "msg_type": "stream"},
            "content": {
                "name": content.get("name", "stderr"),
                "text": f"{text}\n{note}\n" if text else f"{note}\n",
            },
        }

    def clear_output(self, outs: list[Any], msg: dict[str, Any], cell_index: int) -> None:
        """Forget a cell's outputs, as a progress bar does that draws itself anew."""
        self._spent.pop((cell_index, True), None)
        self._spent.pop((cell_index, False), None)
        super().clear_output(outs, msg, cell_index)


def _in_one_piece(outs: list[Any]) -> Any:
    """Join what was printed last to what was printed before it; return both where that is so.

    A kernel sends what a cell prints whenever it has the time, in the middle of a line, too, and
    myst-nb begins a line with each message.
    """
    last = outs[-1] if outs else {"output_type": ""}
    if last["output_type"] != "stream":
        return None
    for distance, before in enumerate(reversed(outs[:-1])):
        if before["output_type"] != "stream":
            break
        if before["name"] == last["name"]:
            if distance and before["text"].endswith("\n"):
                break
            before["text"] += outs.pop()["text"]
            return before
    return None


def _size(data: Any) -> int:
    """Return about how many characters a bundle of representations has."""
    if isinstance(data, str):
        return len(data)
    if isinstance(data, dict):
        return sum(map(_size, data.values()))
    if isinstance(data, list):
        return sum(map(_size, data))
    return 8
