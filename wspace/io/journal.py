"""What is whole already in a folder that is still being written: a line for each fact, in the order they came true.

A process that dies leaves its hidden folder and this file beside it; the next one with the same key goes on from there.
A line that is cut short ends what is believed, and a leaf is believed only if its bytes have the digest on its line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def journal_of(folder: Path) -> Path:
    """The journal of a hidden folder: beside it, so that the folder is complete when the last leaf is."""
    return folder.with_name(f"{folder.name}.journal")


class Journal:
    """Facts as JSON objects, appended one by one.

    Attributes:
      facts: those that were found when it was opened.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = journal_of(folder)
        found, self.facts, size = read_journal(folder)
        if found != key:
            self.facts, size = [], 0
        self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.ftruncate(self._handle, size)  # what was cut short goes
        if not size:
            self.add({"key": key})

    def add(self, fact: Mapping[str, Any]) -> None:
        """One more fact that is true from now on."""
        line = json.dumps(fact, ensure_ascii=False, sort_keys=True) + "\n"
        os.write(self._handle, line.encode())

    def close(self) -> None:
        """No more facts."""
        os.close(self._handle)


def read_journal(folder: Path) -> tuple[str | None, list[dict[str, Any]], int]:
    """The key of the run that wrote in a folder, the facts, and how many bytes of the file are whole lines."""
    facts, size = [], 0
    try:
        raw = journal_of(folder).read_bytes()
    except OSError:
        return None, [], 0
    for line in raw.splitlines(keepends=True):
        try:
            fact = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(fact, dict):
            break
        facts.append(fact)
        size += len(line)
    key = facts[0].get("key") if facts else None
    return key if isinstance(key, str) else None, facts[1:], size
