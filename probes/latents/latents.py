"""SAE latents as predictors of a sweep's target, against the very surface that its probe stands against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from graticule.hooks.calls import renamed
from graticule.hooks.coders import SparseCoder, architecture, describe, load_sae, writes_elsewhere
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.latents import encode
from graticule.hooks.messages import bar
from graticule.hooks.rows import PointKey
from graticule.probes.core.findings import Findings
from graticule.probes.latents.judging import JudgedSaes
from graticule.probes.latents.result import LatentFindings


@renamed("ks", point="hook_name", draws="n_random")
@door(findings=FINDINGS)
def latents(
    findings: Findings,
    saes: Any,
    *,
    ks: int | Sequence[int] = (1, 2, 5, 20),
    hook_name: PointKey | None = None,
    top: int = 20,
    null: Literal["decoder", "activations"] = "decoder",
    n_random: int = 5,
    n_untrained: int = 8,
    folds: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> LatentFindings:
    """What SAE latents hold of the findings' target: a few, all, what the SAE keeps and what it loses.

    At each SAE's own hook point, through the same surface and verdict as the sweep's probe:

    - *dense probe*: the sweep's ridge there;
    - *k latents*: least squares on the k latents of a forward selection on training rows. The out-of-fold
      predictions that the stack is fitted on come from a group k-fold which *chooses the latents anew* in
      every fold; k latents of a larger k are its first ones;
    - *k coordinates*: the same of the activations' own coordinates; *random latents*: for each
      chosen one another that is active about as often, mean and range of `n_random`;
    - *untrained latents*: k latents, selected alike, of `n_untrained` SAEs that know nothing of these
      activations (this one, reading them turned at random; as many latents active). Latents of any SAE are
      functions of the activations: k latents that are structure, but add no more than theirs (a t prediction
      interval of their gains; all of `ks` counted), say so. With as many latents as the activations have
      directions, they never add more;
    - *all latents*: sparse ridge, its strength chosen in the same folds;
    - *reconstruction* and *error term*: the sweep's ridge on what the SAE gives back and on the rest.

    Single latents are ranked by correlation on training rows and scored on test rows; what they write is
    compared with the dense probe's two directions against vectors drawn with the covariance (about zero) of
    the SAE's decoder, or with that of the activations (`null`), the largest of as many as there are latents.

    Args:
        findings: Of a sweep, whose targets, split and surface these are.
        saes: One SAELens SAE, its folder or a run, or several by name.
        ks: How many latents.
        hook_name: A hook point instead of the one that the SAE names.
        top: How many latents are listed per target.
        null: Whose covariance the random vectors have.
        n_random: Random latents, so many times.
        n_untrained: Untrained SAEs, at least two.
        folds: Folds of clusters in which latents are chosen anew.
        seed: The seed of folds and of what is drawn.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        PointError: An SAE's point was not swept.
        ValueError: An SAE has another width or is a transcoder, or `ks` are not positive.
    """
    inputs, ks = findings.inputs, (ks,) if isinstance(ks, int) else ks
    several = cast("Mapping[str, Any]", saes) if isinstance(saes, Mapping) else {"": saes}
    loaded = {name: load_sae(one).sae for name, one in several.items()}
    named = {name or _name(sae): sae for name, sae in loaded.items()}
    counts = tuple(sorted(set(ks)))
    if not counts or counts[0] < 1 or not named:
        raise ValueError(
            f"ks={tuple(ks)} and {len(named)} SAEs: give at least one SAE and positive numbers of latents"
        )
    for name, sae in named.items():
        if (other := writes_elsewhere(sae)) is not None:
            raise ValueError(
                f"{name} is a transcoder (it writes to {other}): only SAEs that reconstruct what they read "
                "are judged here; activations.encode(sae) gives its latents"
            )
    judged = JudgedSaes(findings, counts, top, null, n_random, n_untrained, folds, seed)
    with bar(len(named) * (5 + n_untrained), "latents", "step", progress) as advance:
        for name, sae in named.items():
            judged.judge(name, encode(inputs.activations, sae, hook_name, progress=progress), advance.update)
    return judged.result(findings, {name: describe(sae) for name, sae in named.items()})


def _name(sae: SparseCoder) -> str:
    return f"{architecture(sae)} SAE, {int(sae.cfg.d_sae):,} latents"
