"""What came of each run, as it is kept in `docs/readers.json`."""

from __future__ import annotations

import dataclasses as dc
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1

GOOD = ("ok", "explained")
"""The outcomes with which the site is content."""


class ReadersError(Exception):
    """The pages cannot be tried; the message tells the way out."""


@dc.dataclass(frozen=True, order=True)
class Task:
    """One thing to try."""

    page: str
    section: str
    form: str
    python: str
    start_method: str


@dc.dataclass(frozen=True)
class Entry:
    """What came of it, as it is kept."""

    task: Task
    outcome: str
    """ok, explained, failed, timeout, or works-after-all where the page says it cannot."""
    seconds: float
    error: str
    """The last line of the error, or the page's reason."""
    date: str
    digest: str
    """Fingerprint of what ran."""
    environment: str
    """Key of the environment in which it ran."""

    def to_json(self) -> dict[str, Any]:
        """Return it as one flat object."""
        rest = {name: value for name, value in dc.asdict(self).items() if name != "task"}
        return dc.asdict(self.task) | rest

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Read what `to_json` wrote."""
        fields = {field.name for field in dc.fields(Task)}
        task = Task(**{name: data[name] for name in fields})
        return cls(task, **{name: value for name, value in data.items() if name not in fields})


@dc.dataclass
class Record:
    """The data file."""

    path: Path
    environments: dict[str, dict[str, Any]] = dc.field(default_factory=dict)
    entries: dict[Task, Entry] = dc.field(default_factory=dict)
    there: set[tuple[str, str]] | None = None
    """The pages and sections of the site; entries of others are not kept."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read the file; it is empty where there is none.

        Raises
        ------
        ReadersError
            If it is damaged, or of another schema.
        """
        record = cls(path)
        if not path.exists():
            return record
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA:
                raise ReadersError(f"{path}: is of schema {data['schema']}, not {SCHEMA}.")
            record.environments = data["environments"]
            entries = [Entry.from_json(item) for item in data["runs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ReadersError(
                f"{path}: is damaged ({error!r}). Take the last one from git, or delete it."
            ) from error
        record.entries = {entry.task: entry for entry in entries}
        return record

    def add(self, entry: Entry, environment: Mapping[str, Any]) -> None:
        """Put a run in the place of the one before, and write the file.

        What another process has written meanwhile stays.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            latest = Record.read(self.path)
            self.entries = latest.entries | {entry.task: entry}
            self.environments = latest.environments | {entry.environment: dict(environment)}
            self.write()
        finally:
            os.close(folder)

    def write(self) -> None:
        """Write the file, one line a run, so that a change of one shows as one."""
        if self.there is not None:
            self.entries = {
                task: entry
                for task, entry in self.entries.items()
                if (task.page, task.section) in self.there
            }
        used = {entry.environment for entry in self.entries.values()}
        environments = {key: self.environments[key] for key in sorted(used)}
        runs = [json.dumps(self.entries[task].to_json()) for task in sorted(self.entries)]
        text = (
            f'{{"schema": {SCHEMA},\n"environments": {json.dumps(environments, indent=1)},\n'
            '"runs": [\n' + ",\n".join(runs) + "\n]}\n"
        )
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(self.path)
