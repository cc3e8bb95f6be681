"""What was read of a corpus so far, as one digest: a run goes on from the very documents it began with."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

from graticule.hooks.streams.corpora import Corpus


class ReadSoFar:
    """A digest of the documents up to a place, kept while they are read a little ahead of it."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._documents = 0
        self._digest = hashlib.sha256()
        self._ahead: deque[tuple[int, bytes]] = deque()

    def watch(self, number: int, digest: bytes) -> None:
        """Take note of a document that is read."""
        if number >= self._documents:
            self._ahead.append((number, digest))

    def finish(self, before: int | None) -> None:
        """The documents below number `before` (all, for None) have been used."""
        while self._ahead and (before is None or self._ahead[0][0] < before):
            number, digest = self._ahead.popleft()
            if number == self._documents:
                self._digest.update(digest)
                self._documents += 1

    def state_dict(self) -> dict[str, Any]:
        """How many documents, and their digest."""
        return {"documents_read": self._documents, "read": self._digest.hexdigest()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: where the documents until then are no longer what they were.
        """
        self._ahead.clear()
        wanted = state.get("read")
        if wanted is None or wanted == self._digest.hexdigest():  # a state of 0.1 has none
            return
        self._documents, self._digest = 0, hashlib.sha256()
        for digest in islice(self._corpus.digests(), state["documents_read"]):
            self._digest.update(digest)
            self._documents += 1
        if self._digest.hexdigest() != wanted:
            raise ValueError(
                f"{self._corpus.name} has changed within the {state['documents_read']:,} documents read so "
                "far: give it as it was, or begin in another folder"
            )
