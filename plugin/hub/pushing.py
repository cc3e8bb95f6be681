"""Pushing a SAE, a run, or a probe to the Hub: private until what the Hub gives back is what was sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graticule.hooks.doors import door
from graticule.hub.card import card
from graticule.hub.readback import read_back, tensors_of
from graticule.hub.remote import MAIN, Head, Hub, HubError, ReadBackError, check_repo, check_words
from graticule.hub.uploads import NAMES, SaeFacts, Upload, gather, hub_model

if TYPE_CHECKING:
    from graticule.hub.uploads import Pushed

README = "README.md"
_THEIRS = ".gitattributes"  # the Hub's own, in every repository
_SAME = ("architecture", "d_in", "d_sae", "k")
Files = Mapping[str, Path | bytes]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Push:
    """One push, in words and numbers."""

    repo: str
    """`owner/name`."""
    revision: str
    """The branch."""
    ids: tuple[str, ...]
    """A folder each in the repository: SAELens's `sae_id`."""
    files: tuple[tuple[str, int], ...]
    """Path in the repository and size in bytes."""
    card: str
    """`README.md`."""
    commit: str | None
    """The commit that was read back; None after a dry run."""
    changed: bool
    """Whether that commit is new: False if the repository held all of it."""
    private: bool
    """Whether the repository is private now (after a dry run: would be)."""
    replaced: tuple[str, ...] = ()
    """Ids that were there before, with other content."""
    url: str | None = None
    """Where it is; None after a dry run."""

    def __repr__(self) -> str:
        what = "not sent (dry run)" if self.commit is None else f"commit {self.commit[:12]}"
        return (
            f"Push: {', '.join(self.ids)} to {self.repo} ({self.revision}), {len(self.files)} files, {what}"
        )

    def summary(self) -> str:
        """What went where, every file with its size; after a dry run with the card."""
        seen = "private" if self.private else "public"
        total = sum(size for _, size in self.files)
        sizes = [f"  {size:>12,}  {path}" for path, size in self.files]
        if self.commit is None:
            head = f"dry run: nothing was sent. {self.repo} ({self.revision}) would be {seen} and receive"
            return "\n".join([head, *sizes, f"  {total:>12,}  bytes in all", "", "README.md:", "", self.card])
        what = "pushed and read back" if self.changed else "nothing has changed; read back"
        at = f"commit {self.commit[:12]} of {self.revision}"
        lines = [
            f"{what}: {', '.join(self.ids)} in {self.repo}, {seen}, {at}",
            f"{len(self.files)} files, {total:,} bytes, every tensor equal",
            *sizes,
        ]
        if self.replaced:
            lines.append(f"replaced what {', '.join(self.replaced)} held before")
        return "\n".join([*lines, str(self.url)])


@door()
def push(
    what: Pushed,
    repo: str,
    *,
    sae_id: str | None = None,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    dry_run: bool = False,
) -> Push:
    """Publish a SAE, a run, a probe or findings on the Hugging Face Hub: public by default, or `private`.

    The layout is SAELens's. A new repository is made private, receives everything in one commit, and is read
    back at that commit: every file's digest, and every tensor as `SAE.load_from_disk` (on main also
    `SAE.from_pretrained`) loads it. Only then is it made public, unless `private`. Pushed again, a repository
    that is left from an interrupted push is finished, and nothing is committed where nothing has changed. A
    repository that was there keeps its visibility; a public one gets one commit, which is taken back if it
    does not read back.

    The login is the Hub's own (`hf auth login`, or `HF_TOKEN`); it is neither an argument nor logged.
    Absolute local paths in the JSON files are cut to their last part. What was read back stays in the Hub's
    cache, as after any download.

    Args:
        what: a SAELens folder, a run or its folder, a `RidgeProbe` or its folder, `Findings` or their folder,
            whose chosen probe goes with its verdict; a folder of several, or `{id: any of these}`.
        repo: the repository, `owner/name`.
        sae_id: the folder in the repository; by default the hook name, for several their folders' names.
        private: whether a new repository stays private.
        revision: a branch, made from main if it is not there; by default main.
        licence: the Hub's identifier (mit, apache-2.0, gemma …); by default what the card there says.
        base_model: the model's id on the Hub; by default as TransformerLens knows it.
        dry_run: return files, sizes and card as they would be in a new repository, and touch nothing.

    Raises:
        FileNotFoundError: where there is nothing to push.
        ValueError: for what cannot be pushed.
        ConnectionError: where the Hub cannot be reached or is switched off.
        PermissionError: where it denies.
        HubError: where it fails.
        ReadBackError: where it gives back something else. All of these say how the repository stands.
    """
    check_repo(repo)
    check_words(sae_id=sae_id, revision=revision, licence=licence, base_model=base_model)
    uploads = gather(what, sae_id)
    if dry_run:
        ready = _ready(uploads, base_model)
        text = card(repo, ready, licence=licence, revision=revision or MAIN)
        files = {**_content(ready), README: text.encode()}
        return Push(repo, revision or MAIN, _ids(ready), _sizes(files), text, None, True, private)
    hub = Hub(repo, revision)
    there = hub.look()  # fails at once where nothing can be pushed
    if there is not None and private and not there.private:
        raise ValueError(f"{repo} is public: --private cannot hide it; choose another repository")
    ready = _ready(uploads, base_model)
    head = _head(hub, there, not private)
    _refuse_others(hub, head, uploads, chosen=sae_id is not None or isinstance(what, Mapping))
    return _push(hub, head, ready, licence, private)


def _push(hub: Hub, head: Head, uploads: Sequence[Upload], licence: str | None, private: bool) -> Push:
    text = card(hub.repo, uploads, licence=licence, revision=hub.revision, existing=_text(hub, head, README))
    files: dict[str, Path | bytes] = {**_content(uploads), README: text.encode()}
    gone = sorted(p for s in uploads for n in NAMES if (p := f"{s.id}/{n}") in head.files - files.keys())
    commit = hub.commit(files, f"Add {', '.join(_ids(uploads))}", head.commit, gone)
    seen = "private" if head.private else "public"
    hub.state = f"{hub.repo} is {seen} and holds commit {commit[:12]}, which is not checked yet"
    log.info("%d files are in %s, which is %s; reading them back", len(files), hub.repo, seen)
    if wrong := read_back(hub, commit, files, uploads):
        raise _mismatch(hub, head, commit, wrong, [*files, *gone])
    hub.state = f"{hub.repo} is {seen} and whole"
    still_private = _opened(hub, head, files, private)
    changed = commit != head.commit
    replaced = tuple(s.id for s in uploads if changed and any(p in head.files for p in s.in_repo))
    sent = (_ids(uploads), _sizes(files), text, commit, changed)
    return Push(hub.repo, hub.revision, *sent, still_private, replaced, hub.url)


def _ready(uploads: Sequence[Upload], base_model: str | None) -> list[Upload]:
    """The uploads with their model's id, after a look whether they can be loaded at all."""
    for upload in uploads:
        tensors_of(upload)
    return [upload.of(base_model or hub_model(upload.model_name)) for upload in uploads]


def _head(hub: Hub, head: Head | None, to_be_public: bool) -> Head:
    """What the commit goes on top of: the repository and the branch are made if they are not there."""
    if head is None:
        hub.create(to_be_public)
        head = hub.look()
        if head is None:
            raise HubError(f"{hub.repo} was made but cannot be seen by this login")
        if not head.private:
            raise HubError(f"{hub.repo} was asked for as private and is public; nothing was sent to it")
        hub.state = f"{hub.repo} is private and empty"
        log.info("%s is made, private", hub.repo)
    if head.commit is None:
        hub.branch()
        head = hub.look() or head
    return head


def _refuse_others(hub: Hub, head: Head, uploads: Sequence[Upload], chosen: bool) -> None:
    """Raise `ValueError` where an id is a file there, or one that nobody chose holds another SAE."""
    for upload in uploads:
        above = ["/".join(upload.id.split("/")[: n + 1]) for n in range(upload.id.count("/") + 1)]
        if clash := [path for path in above if path in head.files]:
            raise ValueError(f"{clash[0]} is a file of {hub.repo}: give the SAE another sae_id")
        if chosen or not isinstance(upload.facts, SaeFacts):
            continue
        there = _text(hub, head, f"{upload.id}/cfg.json")
        cfg: dict[str, Any] = json.loads(there) if there is not None else {}
        if differ := [n for n in _SAME if cfg and cfg.get(n) != upload.facts.cfg.get(n)]:
            n = differ[0]
            raise ValueError(
                f"{hub.repo} holds another SAE in {upload.id} ({n} {cfg.get(n)!r}, here "
                f"{upload.facts.cfg.get(n)!r}): give this one its own sae_id, or that one to replace it"
            )


def _text(hub: Hub, head: Head, path: str) -> str | None:
    if path not in head.files or head.commit is None:
        return None
    copy = hub.read(path, head.commit)
    return copy.read_text(encoding="utf-8") if copy is not None else None


def _mismatch(hub: Hub, head: Head, commit: str, wrong: Sequence[str], paths: list[str]) -> ReadBackError:
    """The error to raise; from a public repository the commit is taken back first."""
    words = f"{hub.repo} does not give back what was sent: {'; '.join(wrong[:5])}"
    if head.private:
        return ReadBackError(f"{words}. It stays private; push again, and report it if it stays so")
    if commit == head.commit:
        return ReadBackError(f"{words}. It was public and so before this push, which changed nothing")
    undone = hub.take_back(paths, commit, head)
    return ReadBackError(f"{words}. The commit was taken back by {undone[:12]}; push again")


def _opened(hub: Hub, head: Head, files: Files, private: bool) -> bool:
    """Make a repository of ours public, unless it is to be private; returns whether it is private now."""
    others = sorted(head.files - files.keys() - {_THEIRS})
    if head.private and head.unfinished and not private and others:
        log.warning(
            "%s stays private: it holds %s of another push that was not finished; push both in one, as {id: "
            "folder}, or make it public in its settings",
            hub.repo,
            ", ".join(others[:3]),
        )
        return True
    to_open = head.private and head.unfinished and not private
    if to_open:
        hub.publish()
        log.info("%s is public", hub.repo)
    if head.unfinished:
        hub.unmark()
    if head.private and not to_open and not private:
        log.warning("%s was private and stays so: its settings on the Hub make it public", hub.repo)
    return head.private and not to_open


def _content(uploads: Sequence[Upload]) -> Files:
    return {path: content for upload in uploads for path, content in upload.in_repo.items()}


def _ids(uploads: Sequence[Upload]) -> tuple[str, ...]:
    return tuple(upload.id for upload in uploads)


def _sizes(files: Files) -> tuple[tuple[str, int], ...]:
    return tuple((p, len(c) if isinstance(c, bytes) else c.stat().st_size) for p, c in files.items())
