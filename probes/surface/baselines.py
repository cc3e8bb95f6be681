"""What could be read without the model's knowledge: the string, the input embeddings, an untrained twin.

Here their *features* are captured, once for a table; `sweep` fits them to whatever target it is given and
stacks them into one surface predictor.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from graticule.hooks.activations import Activations
from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    frame_digest,
    is_as_sealed,
    library_versions,
    read_json,
    read_table,
    sealed,
    unsealed,
    write_json,
    write_table,
)
from graticule.hooks.calls import renamed
from graticule.hooks.capture import capture
from graticule.hooks.capture_spec import CaptureSpec, Pos, check_pos, pos_to_data
from graticule.hooks.doors import MODEL, TABLE, door
from graticule.hooks.forms import WrongKindError
from graticule.hooks.identity import model_identity
from graticule.hooks.kinds import FolderKind, ForeignFolderError, differences, listing, working_folder
from graticule.hooks.messages import brief
from graticule.hooks.names import inside, place_of
from graticule.hooks.places import Place
from graticule.hooks.points import LayerSpec, PointError, PointSpec, full_name, resolve
from graticule.hooks.processor import give_back
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import Rows
from graticule.hooks.running.session import lay_out
from graticule.hooks.store import Store
from graticule.hooks.store_writer import save_rows
from graticule.probes.surface.spelling import TextFeatures
from graticule.probes.surface.token_features import token_features
from graticule.probes.surface.twin import make_twin
from graticule.probes.tables.table import Table
from graticule.probes.tables.tokens import TokenTable, places_of

_log = logging.getLogger(__name__)

_READERS = (
    *("tfidf", "spelling", "trees", "confounds", "joint", "shuffled", "probe"),
    *("token", "neighbours", "other_tokens", "position", "token_counts"),
)
"""What graticule's own readers are called, and what stands beside them."""

KIND = "baselines"
BASELINES = FolderKind(
    KIND,
    "folder of baselines",
    "manifest.json",
    (
        "mean_embedding",
        "last_embedding",
        "token_embedding",
        "block_0",
        "twin_*",
        "tokens.parquet",
        "provenance.json",
    ),
)
"""The folder of baselines, a store each."""


@dataclass(frozen=True)
class Baselines:
    """TextFeatures of the baselines, row-aligned with a table."""

    table_digest: str
    """Digest of the table that they were captured for."""
    features: Mapping[str, Rows]
    """Baseline → its activations: one point for an embedding or block 0, all layers for a twin."""
    strings: bool = True
    """Whether readers of the table's texts are among them (TF-IDF, spelling, trees); they are fitted with the
    target, out of fold."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Model, prompt, positions and versions."""
    tokens: TextFeatures | None = None
    """What the model's tokenizer makes of each text, for these readers; None without a tokenizer, or for
    baselines that were saved before they held it."""

    def __repr__(self) -> str:
        names = [*(["strings"] if self.strings else []), *self.features]
        rows = next((f"{feature.n_rows:,} rows, " for feature in self.features.values()), "")
        return f"Baselines: {rows}{', '.join(names) or 'none'}"

    @property
    def twins(self) -> tuple[str, ...]:
        """Names of the untrained twins."""
        return tuple(name for name in self.features if name.startswith("twin_"))

    @classmethod
    def of(cls, table: Table, features: Mapping[str, Any]) -> Baselines:
        """Features of one's own as baselines, beside the readers of the table's texts where it has texts.

        Columns of arrays are read in standard deviations of the training rows, activations as they are.

        Args:
            table: What is probed.
            features: Name → activations, or an array with one line for each row of `table`.

        Raises:
            ValueError: An array has not the table's number of rows, or a name is one of the readers'.
            WrongKindError: Neither activations nor an array.
        """
        rows: dict[str, Rows] = {}
        for name, values in features.items():
            if name in _READERS:
                raise ValueError(
                    f"Baselines.of: {name!r} is what a reader of texts is called: name it otherwise"
                )
            own = isinstance(values, np.ndarray | torch.Tensor)
            if not own and not isinstance(values, Activations | Store):
                raise WrongKindError(
                    f"Baselines.of: {name!r} is {brief(values)}: expected activations, or an array with a "
                    "line for each row of the table"
                )
            rows[name] = Activations.from_tensors({name: values}) if own else values
            if own and len(values) != len(table):
                raise ValueError(
                    f"Baselines.of: {name!r} has {len(values)} rows, and the table {len(table)}: give one "
                    "for each of its rows"
                )
        return cls(text_digest(table), rows, table.strings is not None)

    def check(self, table: Table) -> None:
        """Raises:
        ValueError: Unless these were captured for `table`'s very rows, or for its texts.
        """
        if self.table_digest != text_digest(table):
            raise ValueError(
                f"these baselines were captured for other texts than those of {table.name!r}; "
                "capture them again with baselines(model, table)"
            )

    @renamed("overwrite")
    def save(self, path: Path | str, *, overwrite: bool = False) -> Place:
        """Write every feature as a store in `path`, in place of earlier ones of the same texts and model.

        Args:
            path: The folder.
            overwrite: Whether they may take the place of baselines of other texts, or of another model.

        Returns:
            Where they are.

        Raises:
            FileExistsError: `path` holds something else, or baselines of other texts or another model; or
                another process writes there.
        """
        with working_folder(place_of(path), BASELINES, "saving baselines into") as folder:
            if not overwrite:
                self._check_others(folder)
            for name, feature in self.features.items():
                place = inside(folder, name)
                if not (isinstance(feature, Store) and feature.path.resolve() == place.resolve()):
                    save_rows(feature, place, overwrite=True)
            _write_manifest(folder, self)
        return place_of(path)

    def _check_others(self, folder: Place) -> None:
        """Raises:
        ForeignFolderError: Where `folder` holds baselines of other texts or another model.
        """
        try:
            before = Baselines.load(folder)
        except ArtifactError:  # none, or what cannot be read
            return
        old, new = (
            {"table": {"digest": b.table_digest}, "model": b.provenance.get("model") or {}}
            for b in (before, self)
        )
        if differing := differences(old, new):
            raise ForeignFolderError(
                f"{folder} holds baselines of something else ({listing(differing)}); choose another folder, "
                "or say overwrite=True"
            )

    @classmethod
    def load(cls, path: Place | str) -> Baselines:
        """Read what `save` or `baselines(…, store=path)` wrote.

        Raises:
            ArtifactError: If the folder is missing, incomplete, damaged, or of another schema.
        """
        path = place_of(path)
        manifest = read_json(path / "manifest.json")
        check_schema(manifest, KIND, path)
        provenance = read_json(path / "provenance.json")
        if not is_as_sealed(provenance):
            raise ArtifactError(
                f"{path / 'provenance.json'} is not as it was written; capture the baselines again"
            )
        with as_damaged(path / "manifest.json", "capture the baselines again"):
            features = {name: Store(inside(path, name)) for name in manifest["features"]}
            tokens = _saved_tokens(path, manifest.get("tokens"))
            return cls(manifest["table"], features, manifest["strings"], unsealed(provenance), tokens)


def _saved_tokens(path: Place, digest: str | None) -> TextFeatures | None:
    """Raises:
    ArtifactError: They are not as they were written.
    """
    if digest is None:
        return None
    frame = read_table(path / "tokens.parquet")
    if frame_digest(frame) != digest:
        raise ArtifactError(
            f"{path / 'tokens.parquet'} is not as it was written; capture the baselines again"
        )
    return TextFeatures(tuple(frame.columns), frame.to_numpy(np.float64))


def text_digest(table: Table) -> str:
    """A digest of what the model reads: the table's texts, or its number of rows where it has none."""
    texts = table.strings or [str(len(table))]
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _write_manifest(path: Place, made: Baselines) -> None:
    manifest: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "table": made.table_digest,
        "features": list(made.features),
        "strings": made.strings,
    }
    if made.tokens is not None:
        frame = pd.DataFrame(made.tokens.values, columns=list(made.tokens.names))
        write_table(path / "tokens.parquet", frame)
        manifest["tokens"] = frame_digest(frame)
    write_json(path / "provenance.json", sealed(made.provenance))
    write_json(path / "manifest.json", manifest)


@renamed("twins")
@door(model=MODEL.or_none(), table=TABLE)
def baselines(
    model: HookedModel | None,
    table: Table,
    *,
    twins: int = 1,
    points: PointSpec = "resid_post",
    layers: LayerSpec = "all",
    pos: Pos = "last",
    prompt: str = "",
    dtype: torch.dtype | str | None = None,
    twin: Literal["permuted", "fresh"] = "permuted",
    seed: int = 0,
    prepend_bos: bool | None = None,
    include_bos: bool | None = None,
    store: Path | str | None = None,
    progress: bool | None = None,
) -> Baselines:
    """Capture what a probe must beat, for the texts of `table`.

    - `mean_embedding`, `last_embedding`: the input embeddings of the text's own tokens, their mean and the
      last one. Of a table of tokens `token_embedding`, that of each token.
    - `block_0`: the residual stream after the first block, at the probe's position.
    - `twin_0`, …: the probe's own points in untrained twins (`twin.make_twin`), seeds `seed`, ….
    - Readers of the strings need no capture, and no model (`baselines(None, table)` is these alone): TF-IDF;
      the spelling (lengths, case, letters, words, what the model's tokenizer makes of the text; a function of
      each by itself); boosted trees on both. Of tokens they read the window around each, and five more its
      id, its neighbours, all other tokens, its position, and counts of the most frequent tokens.

    What is captured is as in the probe's own `capture`.

    Args:
        model: what the probe reads; None for the strings alone.
        table: texts and their target.
        twins: untrained twins, 0 to leave them out.
        points: hook points, as in `graticule.hooks.points.resolve`.
        layers: of `points` that name no layer.
        pos: which tokens become rows.
        prompt: text before every input, or a template with one slot `{}`.
        dtype: of the activations, as for `graticule.capture`.
        twin: How untrained twins are made: `"permuted"` shuffles the entries of every weight of the model, so
            that their distribution stays and what was learned is lost; `"fresh"` draws new weights.
        seed: The seed of the first twin.
        prepend_bos: whether rows get special tokens.
        include_bos: whether these may be rows.
        store: a folder for the features, each resumed after a kill as `capture` is.
        progress: whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: The table has no texts.
        PointError: For unknown points.
    """
    if table.inputs is None:
        raise ValueError(f"table {table.name!r} has no texts; give text= when making it")
    check_pos(pos)
    pos = places_of(table, pos)
    spec = CaptureSpec(
        model=None if model is None else model_identity(model),
        prompt=prompt,
        positions=pos_to_data(pos),
        prepend_bos=prepend_bos,
        include_bos=include_bos,
    )
    where: dict[str, Any] = {"points": points, "layers": layers}
    how: dict[str, Any] = {"twins": twins, "twin": twin, "seed": seed, "dtype": dtype, "progress": progress}
    if store is None:
        return _made(model, table, None, spec, where, how)
    with working_folder(store, BASELINES, "capturing baselines into") as folder:
        made = _made(model, table, folder, spec, where, how)
        _write_manifest(folder, made)
        if unused := sorted(p.name for p in folder.glob("twin_*") if p.name not in made.features):
            _log.warning(
                "%s: %s of an earlier run with more twins, kept and not used", folder, ", ".join(unused)
            )
        return made


def _made(
    model: HookedModel | None,
    table: Table,
    folder: Path | None,
    spec: CaptureSpec,
    where: Mapping[str, Any],
    how: Mapping[str, Any],
) -> Baselines:
    """Capture every feature; `spec` is the probe's own capture, at the points that `where` names."""
    provenance: dict[str, Any] = {"versions": library_versions()}
    if model is None:
        return Baselines(text_digest(table), {}, True, provenance)
    texts, seed, twin = table.inputs or (), how["seed"], how["twin"]

    def run(name: str, network: HookedModel, **others: Any) -> Rows:
        target: dict[str, Any] = {} if folder is None else {"store": folder / name}
        arguments = spec.arguments(dtype=how["dtype"], progress=how["progress"], **others)
        return capture(network, texts, **arguments, **target)

    features: dict[str, Rows] = {}
    entity: dict[str, Any] = {"points": full_name("embed"), "include_bos": None}
    try:
        if isinstance(table, TokenTable):
            features["token_embedding"] = run("token_embedding", model, points=full_name("embed"))
        else:
            features["mean_embedding"] = run("mean_embedding", model, pos="entity_mean", **entity)
            features["last_embedding"] = run("last_embedding", model, pos="entity_last", **entity)
    except PointError as error:
        _log.warning("no embedding baselines: %s", error)
    features["block_0"] = run("block_0", model, points=("resid_post", 0))
    reads_logits = any("unembed" in point for point in resolve(model, **where))
    for i in range(how["twins"]):
        give_back()  # here and below: a twin is the largest thing beside the model
        copy = make_twin(model, seed + i, twin, keep=() if reads_logits else ("unembed.",))
        lay_out(copy)
        give_back()
        features[f"twin_{i}"] = run(f"twin_{i}", copy, **where)
        del copy
        give_back()
    provenance |= {
        **spec.to_json(),
        "answer": features["block_0"].provenance.get("answer") or {},
        "twin": twin,
        "seed": seed,
    }
    tokens = None if table.texts is None else token_features(model, table.texts)
    return Baselines(text_digest(table), features, True, provenance, tokens)
