"""Learners as TransformerLens models, and on disk; the lookup learner: the paper's two tables.

Jiang et al. section 2: logits f(d)ᵀg(c), f and g free tables. Here f is the token embedding and g the
unembedding of a `HookedTransformer` whose one block writes nothing, so the residual stream at every point is
f(d). Contexts and completions share the token ids 0 … n − 1, the fully known contexts first (see
`Contexts`): the sequence `[context, completion]` has the paper's loss under TransformerLens's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import torch
from jaxtyping import Float, Int
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
from graticule.sims.worlds import RestrictedWorld, tokens_of

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


KIND = "lookup_learner"
NEVER = -1e9
"""Logit of tokens that are never said."""


def lookup_model(
    f: Float[Tensor, "context dim"],
    g: Float[Tensor, "token dim"],
    sae: bool = False,
    tokens: Int[np.ndarray, " some"] | None = None,
) -> HookedTransformer:
    """A hooked model whose logits after a context are `f(d) · g(c)`; its weights are frozen.

    `blocks.0.hook_resid_pre` and `hook_resid_post` are f(d). `sae=True` makes a `HookedSAETransformer`.
    `tokens` are those of an incomplete concept set (`tokens_of(world)`), over which the softmax of training
    ran: the others get a bias of −10⁹, so that their probability is 0 here too.

    Raises:
        ValueError: Where the widths differ, there are fewer contexts than tokens, or `tokens` are none.
    """
    if f.shape[1] != g.shape[1] or len(f) < len(g):
        raise ValueError(
            f"f is {tuple(f.shape)} and g {tuple(g.shape)}: equal widths, and every token is a context too"
        )
    if tokens is not None and not (len(tokens) and 0 <= tokens.min() <= tokens.max() < len(g)):
        raise ValueError(f"tokens={tokens}: some of 0 … {len(g) - 1}")
    model = hooked(_config(len(f), len(g), f.shape[1]), sae)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
            parameter.requires_grad_(False)
        model.embed.W_E.copy_(f)
        model.unembed.W_U.copy_(g.T)
        if tokens is not None:
            model.unembed.b_U.fill_(NEVER)
            model.unembed.b_U[torch.from_numpy(tokens)] = 0.0
    model.eval()
    return model


def _config(contexts: int, tokens: int, width: int) -> dict[str, Any]:
    return {
        "n_layers": 1,
        "attn_only": True,
        "n_heads": 1,
        "d_head": 2,
        "d_model": width,
        "n_ctx": 2,
        "d_vocab": contexts,
        "d_vocab_out": tokens,
        "act_fn": None,
        "normalization_type": None,
        "positional_embedding_type": "rotary",
        "default_prepend_bos": False,
        "init_weights": False,
        "device": "cpu",
        "model_name": "lookup-learner",
    }


def sequences(
    contexts: Int[np.ndarray, " row"] | Sequence[int], completions: Int[np.ndarray, " row"] | Sequence[int]
) -> Int[Tensor, "row 2"]:
    """`[context, completion]` token ids: what the model and SAELens's stores read."""
    return torch.from_numpy(
        np.stack([np.asarray(contexts), np.asarray(completions)], axis=1).astype(np.int64)
    )


def save_lookup(
    path: Path | str,
    contexts: Contexts,
    f: Float[Tensor, "context dim"],
    g: Float[Tensor, "token dim"],
    overwrite: bool = False,
) -> None:
    """Write a learner and its world as a folder of JSON and safetensors; rows of f beyond the contexts (see
    `Learned.f`) are left out.

    Without graticule: `HookedTransformer(HookedTransformerConfig(**manifest["settings"]["config"]))` with all
    weights 0 but `embed.W_E` = f, `unembed.W_U` = gᵀ and `unembed.b_U`, all three in `learner.safetensors`.

    Raises:
        FileExistsError: If the folder exists and is not to be overwritten.
        ValueError: Where the tables do not have one row per context and per token, of equal widths.
    """
    world = contexts.world
    if len(f) < contexts.n or len(g) != world.n_vectors or f.shape[1] != g.shape[1]:
        raise ValueError(
            f"f is {tuple(f.shape)} and g {tuple(g.shape)} for {contexts.n} contexts and {world.n_vectors} "
            "tokens: a row for each, of equal widths"
        )
    bias = torch.full((len(g),), NEVER)
    bias[torch.from_numpy(tokens_of(world))] = 0.0
    settings = {"config": _config(contexts.n, len(g), f.shape[1])}
    save_learner(path, KIND, contexts, {"f": f[: contexts.n], "g": g, "b_U": bias}, settings, overwrite)


def load_lookup(path: Path | str, sae: bool = False) -> tuple[HookedTransformer, Contexts]:
    """The hooked model that `save_lookup` wrote, and the contexts whose truth is known.

    Raises:
        ArtifactError: If the folder is missing, damaged or something else.
    """
    contexts, tensors, _ = load_learner(path, KIND)
    with as_damaged(path, "save the learner again"):
        return lookup_model(tensors["f"], tensors["g"], sae, tokens_of(contexts.world)), contexts
