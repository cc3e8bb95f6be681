"""Learners on disk: a world, its contexts and a learner's tensors in one folder of JSON and safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from graticule.hooks.artifact import (
    SCHEMA,
    as_damaged,
    check_schema,
    library_versions,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from graticule.hooks.imports import load
from graticule.hooks.kinds import write_folder
from graticule.hooks.names import user_path
from graticule.sims.contexts import Contexts
from graticule.sims.world import World
from graticule.sims.worlds.structures import RestrictedWorld

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


def hooked(config: Mapping[str, Any], sae: bool = False) -> HookedTransformer:
    """A TransformerLens model with these settings, its weights as allocated; `sae=True` makes SAELens's
    `HookedSAETransformer`."""
    load("transformer_lens", *(["sae_lens"] if sae else []))
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    if sae:
        from sae_lens import HookedSAETransformer

        return HookedSAETransformer(HookedTransformerConfig(**config))
    return HookedTransformer(HookedTransformerConfig(**config))


def save_learner(
    path: Path | str,
    kind: str,
    contexts: Contexts,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write `manifest.json`, `world.safetensors` and `learner.safetensors`, the learner's own tensors.

    Raises:
        FileExistsError: If the folder exists and is not to be overwritten.
    """
    world = contexts.world
    tables = {f"tables/{i}": torch.from_numpy(np.ascontiguousarray(t)) for i, t in enumerate(world.tables)}
    tables |= {"masks": torch.from_numpy(contexts.masks.copy())}
    tables["chances"] = torch.from_numpy(contexts.chances.copy())
    if isinstance(world, RestrictedWorld):
        tables["kept"] = torch.from_numpy(world.allowed.copy())
    manifest = {
        "kind": kind,
        "schema": SCHEMA,
        "edges": sorted(world.graph.edges),
        "values": world.values,
        "kinds": world.kinds,
        "settings": dict(settings or {}),
        "versions": library_versions(),
    }
    with write_folder(path, overwrite, kind=kind) as folder:
        write_tensors(folder / "world.safetensors", tables)
        write_tensors(folder / "learner.safetensors", tensors)
        write_json(folder / "manifest.json", manifest)


def load_learner(path: Path | str, kind: str) -> tuple[Contexts, dict[str, Tensor], dict[str, Any]]:
    """What `save_learner` wrote: contexts, tensors, settings.

    Raises:
        ArtifactError: If the folder is missing, damaged or of another kind.
    """
    folder = user_path(path)
    manifest = read_json(folder / "manifest.json")
    check_schema(manifest, kind, folder)
    with as_damaged(folder, "save the learner again"):
        return _read(folder, manifest)


def _read(folder: Path, manifest: Mapping[str, Any]) -> tuple[Contexts, dict[str, Tensor], dict[str, Any]]:
    saved = read_tensors(folder / "world.safetensors")
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(manifest["values"])))
    graph.add_edges_from(tuple(edge) for edge in manifest["edges"])
    subset = saved.get("kept")
    tables = tuple(saved[f"tables/{i}"].numpy() for i in range(len(manifest["values"])))
    kinds = tuple(manifest["kinds"])
    world = (
        World(graph, tables, kinds)
        if subset is None
        else RestrictedWorld(graph, tables, kinds, allowed=subset.numpy())
    )
    contexts = Contexts(world, saved["masks"].numpy(), saved["chances"].numpy())
    return contexts, read_tensors(folder / "learner.safetensors"), manifest["settings"]
