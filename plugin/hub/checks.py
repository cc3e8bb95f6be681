"""The words given to a push, checked before anything is read: folder, branch, licence, model; no tokens."""

from __future__ import annotations

import re
from difflib import get_close_matches

from graticule.hub.outgoing import has_secret, without_secrets

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


def check_id(name: str) -> str:
    """`name`, if it can be a folder of a repository.

    **Raises** `ValueError` otherwise.
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
    """**Raises** `ValueError` for a word that the Hub would not take, or a token, which is not repeated."""
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
    """`licence`, if the Hub knows it. **Raises** `ValueError` otherwise, with the nearest that it knows."""
    if licence in LICENCES:
        return licence
    near = get_close_matches(licence.lower().replace(" ", "-"), sorted(LICENCES), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"licence={licence[:80]!r}: expected one of the Hub's identifiers, e.g. mit, apache-2.0, gemma, or "
        f"'other' for one that it does not list{hint}"
    )
