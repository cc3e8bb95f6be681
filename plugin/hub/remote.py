"""One repository on the Hub: the words given to a push, checked before anything is read (folder, branch,
licence, model; no tokens); the few requests that it makes; and its errors in words."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from graticule.hub.outgoing import has_secret, without_secrets

MAIN = "main"
UNFINISHED = "graticule-unfinished-push"
"""A branch of this name marks a repository that a push has made and not yet opened to the public."""

_TRANSPORTS = ("httpx", "httpx2", "requests")
_TOKEN = re.compile(r"hf_\w{4,}")
_LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0
grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail
openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
LICENCES = frozenset(_LICENCES.split())
"""The Hub's identifiers, as its documentation of repositories' licences lists them (August 2026)."""

_LONGEST = 200
"""Bytes of a folder's name."""
_ID = re.compile(r"[A-Za-z0-9_][\w.=+-]*(/[A-Za-z0-9_][\w.=+-]*)*")
_BRANCH = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REPO = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")

log = logging.getLogger(__name__)


class HubError(OSError):
    """The Hub refused or failed; the message says in what state the repository is."""


class ReadBackError(HubError):
    """What the Hub gives back is not what was sent."""


@dataclass(frozen=True)
class Head:
    """The repository as a push finds it."""

    commit: str | None
    """Last commit of the branch; None if the branch is not there yet."""
    private: bool
    """Whether only its owners see it."""
    files: frozenset[str]
    """Paths in that commit."""
    unfinished: bool
    """Whether an earlier push made it, private for the time being, and did not come to its end."""


def masked(text: object) -> str:
    """`text` without anything that looks like a Hub token."""
    return _TOKEN.sub("hf_…", without_secrets(text))


# Words given to a push ---------------------------------------------------------------------------------
def check_repo(repo: str) -> str:
    """`repo`, if it is `owner/name`.

    Raises:
        ValueError: otherwise, without repeating a token that may be in it.
    """
    wrong = not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith((".git", ".", "-"))
    if wrong or has_secret(repo):
        hint = "; a token is no part of it: log in with 'hf auth login'" if has_secret(repo) else ""
        raise ValueError(f"repo={masked(repo)!r}: expected owner/name as on the Hub, e.g. user/my-saes{hint}")
    return repo


def check_id(name: str) -> str:
    """`name`, if it can be a folder of a repository.

    Raises:
        ValueError: otherwise.
    """
    if not _ID.fullmatch(name):
        raise ValueError(
            f"sae_id={without_secrets(name)!r}: expected letters, digits, '_', '-', '.', '=' and '+', '/' "
            "between folders, e.g. blocks.9.hook_resid_post"
        )
    if long := [part for part in name.split("/") if len(part.encode()) > _LONGEST]:
        raise ValueError(f"sae_id={name[:40]!r}…: {long[0][:20]!r}… is longer than {_LONGEST} bytes")
    if name.split("/")[0].casefold() == "readme.md":
        raise ValueError(f"sae_id={name!r}: README.md is the repository's card; choose another folder")
    return name


def check_words(
    sae_id: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
) -> None:
    """Raise `ValueError` for a word that the Hub would not take, or a token, which is not repeated."""
    given = {"sae_id": sae_id, "revision": revision, "licence": licence, "base_model": base_model}
    for name, word in given.items():
        if word is not None and has_secret(word):
            raise ValueError(
                f"{name}={without_secrets(word)!r} holds a token or a password: that is for 'hf auth login'"
            )
    if revision is not None and (
        not _BRANCH.fullmatch(revision)
        or ".." in revision
        or revision.endswith((".", ".lock"))
        or len(revision) > 200
    ):
        raise ValueError(f"revision={revision[:80]!r}: expected a branch's name, e.g. v2")
    if base_model is not None and not _MODEL.fullmatch(base_model):
        raise ValueError(f"base_model={base_model[:80]!r}: expected a model's id on the Hub, owner/name")
    if licence is not None:
        check_licence(licence)


def check_licence(licence: str) -> str:
    """`licence`, if the Hub knows it.

    Raises:
        ValueError: otherwise, with the nearest that it knows.
    """
    if licence in LICENCES:
        return licence
    near = get_close_matches(licence.lower().replace(" ", "-"), sorted(LICENCES), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"licence={licence[:80]!r}: expected one of the Hub's identifiers, e.g. mit, apache-2.0, gemma, or "
        f"'other' for one that it does not list{hint}"
    )


# Requests ------------------------------------------------------------------------------------------------
class Hub:
    """Requests about one branch of one model repository, with the login that huggingface_hub has.

    Raises:
        ConnectionError: where the Hub is switched off.
        PermissionError: without a login.
    """

    def __init__(self, repo: str, revision: str | None = None) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self.repo = check_repo(repo)
        self.revision = revision or MAIN
        if re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"revision={self.revision!r} is a commit: name a branch to push to")
        self.state = f"nothing was sent to {repo}"
        """What to tell about the repository when something fails."""
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError(f"the Hub is switched off (HF_HUB_OFFLINE): unset it; {self.state}")
        if get_token() is None:
            raise PermissionError(
                f"not logged in to the Hub: run 'hf auth login', or set HF_TOKEN; {self.state}"
            )
        self._api = HfApi()

    @property
    def url(self) -> str:
        """Where people look at it."""
        return f"{self._api.endpoint}/{self.repo}"

    def look(self) -> Head | None:
        """The repository as it is now; None if there is none (or none that this login may see)."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._explained("looking at the repository"):
            try:
                info = self._api.model_info(self.repo)
            except RepositoryNotFoundError:
                return None
            there = info if self.revision == MAIN else self._branch(self.revision)
            marked = self._branch(UNFINISHED) is not None
        files = (
            frozenset(f.rfilename for f in (there.siblings or [])) if there is not None else frozenset[str]()
        )
        commit = there.sha if there is not None else None
        self.state = f"{self.repo} is as it was"
        return Head(commit, bool(info.private), files, marked)

    def _branch(self, name: str) -> Any:
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            return self._api.model_info(self.repo, revision=name)
        except RevisionNotFoundError:
            return None

    def create(self, to_be_public: bool) -> None:
        """Make the repository, private; mark it if it is to be public in the end."""
        with self._explained("making the repository"):
            self._api.create_repo(self.repo, private=True)
            self.state = f"{self.repo} is private and empty"
            if to_be_public:
                self._api.create_branch(self.repo, branch=UNFINISHED)

    def branch(self) -> None:
        """Make the branch that is pushed to, from main."""
        with self._explained(f"making the branch {self.revision}"):
            self._api.create_branch(self.repo, branch=self.revision, exist_ok=True)

    def read(self, path: str, commit: str) -> Path | None:
        """A file of a commit, fetched anew: where the copy lies in the Hub's cache; None if it is missing."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        with self._explained(f"reading {path} back"):
            try:
                return Path(self._api.hf_hub_download(self.repo, path, revision=commit, force_download=True))
            except LocalEntryNotFoundError:  # the Hub could not be asked
                raise
            except EntryNotFoundError:
                return None

    def commit(
        self, files: Mapping[str, Path | bytes], message: str, parent: str | None, gone: Sequence[str] = ()
    ) -> str:
        """Put `files` and delete `gone` in one commit on `parent`; its id, or `parent` if nothing differs."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        adds: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
        return self._send([*adds, *(CommitOperationDelete(path) for path in gone)], message, parent)

    def take_back(self, paths: list[str], commit: str, parent: Head) -> str:
        """One commit that undoes `commit`: new files go, replaced ones are what they were in `parent`."""
        from huggingface_hub import CommitOperationCopy, CommitOperationDelete

        back: list[Any] = [
            CommitOperationCopy(p, p, src_revision=parent.commit)
            if p in parent.files
            else CommitOperationDelete(p)
            for p in paths
        ]
        return self._send(back, "Take back what did not read back", commit)

    def _send(self, operations: list[Any], message: str, parent: str | None) -> str:
        with self._explained("sending the files"), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            made = self._api.create_commit(
                self.repo,
                operations,
                commit_message=message,
                revision=self.revision,
                parent_commit=parent,
            )
        for warning in warned:
            on_purpose = "data file" in str(warning.message)  # history.parquet
            if warning.category is UserWarning and not on_purpose:
                log.warning("the Hub: %s", masked(warning.message))
        return str(made.oid)

    def publish(self) -> None:
        """Open the repository to everybody, and take the mark away."""
        with self._explained("making the repository public"):
            self._api.update_repo_settings(self.repo, private=False)
        self.state = f"{self.repo} is public and whole"

    def unmark(self) -> None:
        """Take the mark of an unfinished push away, unless a push beside this one has."""
        from huggingface_hub.errors import RevisionNotFoundError

        with self._explained("taking the mark of the unfinished push away"), suppress(RevisionNotFoundError):
            self._api.delete_branch(self.repo, branch=UNFINISHED)

    @contextmanager
    def _explained(self, doing: str) -> Generator[None]:
        """Errors of huggingface_hub in words: what failed, how the repository stands, what to do."""
        try:
            yield
        except Exception as error:
            explanation = self._explanation(error, doing)
            if explanation is None:
                raise
            raise explanation from error

    def _explanation(self, error: BaseException, doing: str) -> Exception | None:
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        cause = _root(error)
        where = f"{doing} failed: {{}}; {self.state}; once that is mended, run the same command again"
        if isinstance(cause, HfHubHTTPError):
            code = cause.response.status_code
            answer = masked(cause.server_message or str(cause).splitlines()[0])
            if code in (401, 403):
                reason = f"the Hub denies it to this login ({code}: {answer})"
                return PermissionError(where.format(reason))
            if code in (409, 412):
                return HubError(where.format(f"the repository changed meanwhile ({code}: {answer})"))
            return HubError(where.format(f"the Hub answered {code}: {answer}"))
        if _is_transport(cause) or isinstance(cause, OfflineModeIsEnabled):
            reason = f"{self._api.endpoint} cannot be reached ({masked(cause) or type(cause).__name__})"
            return ConnectionError(where.format(reason))
        if isinstance(cause, ValueError):  # refused metadata, refused objects
            return HubError(where.format(masked(cause)))
        return None


def _is_transport(error: BaseException) -> bool:
    """Whether the Hub could not be reached, as the HTTP library of any huggingface_hub says it."""
    return isinstance(error, ConnectionError) or type(error).__module__.split(".")[0] in _TRANSPORTS


def _root(error: BaseException) -> BaseException:
    """What the Hub or the transport said, where huggingface_hub has wrapped it in an error of its own."""
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError) or _is_transport(cause):
            return cause
        cause = cause.__cause__
    return error
