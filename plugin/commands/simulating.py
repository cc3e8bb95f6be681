"""`graticule sim` and `graticule certify`: learners of known worlds, and instruments pointed at them."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.commands import options as o
from graticule.sims.papers import NAMES

_OPTIMIZERS = ("sgd", "adam", "population")
_log = logging.getLogger(__name__)


def sim_command(
    out: o.Out,
    concepts: Annotated[int | None, typer.Option(help="Binary concepts, m; 7 unless a table says.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each setting; the paper's number by default.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help=f"Reproduce one of the paper's: {', '.join(NAMES)}.")
    ] = None,
    theorems: Annotated[bool, typer.Option("--theorems", help="Check the paper's theorems instead.")] = False,
    dim: Annotated[int | None, typer.Option(help="Width of both tables; m by default.")] = None,
    scale: Annotated[float | None, typer.Option(help="Factor on the initial weights; 1 by default.")] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="sgd, adam, or population: the exact gradient, many times faster, in fewer updates "
            "(see --steps)."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Updates; 200,000, or what --table needs. With --optimizer population they count SGD's: "
            "the updates on the exact gradient are as many as make the same learning rate × updates, with 7 "
            "concepts one for 160; the summary says how many."
        ),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="L2 penalty on both tables; none by default.")
    ] = None,
    masks: Annotated[
        int | None, typer.Option(help="Train on so many masks alone: incomplete contexts.")
    ] = None,
    vector_share: Annotated[
        float | None, typer.Option("--kept", help="Train on this share of the concept vectors alone.")
    ] = None,
    graph: Annotated[
        str | None, typer.Option(help="random (by default), dense, chain, forest or independent.")
    ] = None,
    edge_probability: Annotated[float | None, typer.Option(help="Of a random graph; .5 by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of worlds, tables and samples.")] = 0,
) -> None:
    """Train learners on worlds whose concepts are known, and measure their geometry.

    Leaves sim.json (mean cosines with standard errors, loss and floor of each setting), the whole result and
    a page in the folder; the same command run again reads what is there, and goes on after the last setting
    that was done if it was stopped.

    \b
    Example:  graticule sim --concepts 7 --seeds 10 --out tables
              graticule sim --table 1 --out table-1
              graticule sim --theorems --out theorems
    """
    o.need_folder(out)
    if theorems and table is not None:
        raise ValueError(f"--theorems and --table {table}: one of the two")
    if table is not None and table not in NAMES:
        raise ValueError(f"--table {table!r}: expected one of {', '.join(NAMES)}")
    if optimizer is not None and optimizer not in _OPTIMIZERS:
        raise ValueError(f"--optimizer {optimizer!r}: expected one of {', '.join(_OPTIMIZERS)}")
    asked: dict[str, Any] = {
        "theorems": theorems, "table": table, "concepts": concepts, "seeds": seeds, "seed": seed, "dim": dim,
        "scale": scale, "optimizer": optimizer, "steps": steps, "weight_decay": weight_decay, "masks": masks,
        "kept": vector_share, "graph": graph, "edge_probability": edge_probability,
    }  # fmt: skip
    from graticule.hooks.kinds import working_folder
    from graticule.report import page_in
    from graticule.results import SIM

    _used(asked)
    with working_folder(out, SIM, "simulating into"):
        page_in(out)
        result = _saved(out, asked)
        if result is None:
            result = _made(asked, out / "parts")
            _save(result, out, asked)
        page = result.report(page_in(out))
    o.say(f"{result.summary()}\nThe page: {page}")


def certify_command(
    out: o.Out = Path("runs/certificate"),
    concepts: Annotated[
        int,
        typer.Option(help="Two-valued concepts of the world, 4 to 10."),
    ] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of world, learners, samples and labels.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer conditions, shorter training.")] = False,
) -> None:
    """Certify ridge, logistic, MLP and PCA probes on learners whose truth is known.

    Leaves learners, every condition, the certificate and its page in the folder; the same command run again
    goes on where it was.

    \b
    Example:  graticule certify --quick --out certificate
              graticule certify --concepts 6 --out certificate
    """
    o.need_folder(out)
    from graticule.certificate.certify import certify
    from graticule.hooks.kinds import keep_request, working_folder
    from graticule.report import page_in
    from graticule.results import CERTIFICATE

    asked: dict[str, Any] = {"concepts": concepts, "quick": quick, "seed": seed}
    with working_folder(out, CERTIFICATE, "certifying into"):
        page_in(out)
        keep_request(out, CERTIFICATE, asked)
        made = certify(**asked, out=out, say=o.say_aside, progress=True)
        made.save(out / "result", overwrite=True)
        page = made.report(page_in(out))
    o.say(f"{made.summary()}\nThe page: {page}")


_OF_TABLES = ("theorems", "table", "concepts", "seeds", "seed", "optimizer", "steps")
_OF_THEOREMS = ("theorems", "table", "concepts", "seed", "graph", "edge_probability")


def _used(asked: dict[str, Any]) -> None:
    """Raise `ValueError` for options that what is asked for has no use for."""
    if not asked["theorems"] and asked["table"] is None:
        return
    used = _OF_THEOREMS if asked["theorems"] else _OF_TABLES
    idle = [name for name, value in asked.items() if value is not None and name not in used]
    if idle:
        what = "--theorems" if asked["theorems"] else f"--table {asked['table']}"
        options = ", ".join("--" + name.replace("_", "-") for name in idle)
        raise ValueError(f"{what} has no use for {options}: leave out what it settles itself")


def _made(asked: dict[str, Any], parts: Path) -> Any:
    """The result that was asked for; settings of a simulation are kept in `parts` as they are done."""
    from graticule.sims.papers.reproduce import reproduce
    from graticule.sims.papers.setting import Setting
    from graticule.sims.papers.simulate import simulate

    shared: dict[str, Any] = {"runs": asked["seeds"], "seed": asked["seed"], "progress": True, "out": parts}
    if asked["table"] is not None:
        only = None if asked["concepts"] is None else (asked["concepts"],)
        settings = {"steps": asked["steps"], "optimizer": asked["optimizer"], "concepts": only}
        return reproduce(asked["table"], **settings, **shared)
    chosen: dict[str, Any] = {
        "vector_share" if name == "kept" else name: value
        for name, value in asked.items()
        if value is not None and name not in ("theorems", "table", "seeds", "seed", "optimizer")
    }
    if asked["theorems"]:
        from graticule.sims.papers.theorems import theorems

        chosen.setdefault("concepts", 4)
        return theorems(Setting(**chosen).world(asked["seed"]), seed=asked["seed"], progress=True)
    return simulate(Setting(**chosen), optimizer=asked["optimizer"] or "sgd", **shared)


def _saved(out: Path, asked: dict[str, Any]) -> Any:
    """The result of the very same command, if the folder holds it.

    Raises:
        ForeignFolderError: if it holds that of another.
    """
    from graticule.hooks.artifact import ArtifactError, fingerprint, read_json
    from graticule.hooks.kinds import ForeignFolderError, differences, listing
    from graticule.results import load_result

    if not (out / "sim.json").is_file():
        return None
    try:
        index = read_json(out / "sim.json")
        if index.get("fingerprint") == fingerprint(asked):
            return load_result(out / "result")
    except ArtifactError as error:
        _log.warning("what %s holds is made again: %s", out, error)
        return None
    differing = differences(index.get("asked", {}), asked)
    if differing:
        raise ForeignFolderError(
            f"{out} holds another simulation ({listing(differing)}); choose another folder, or remove it"
        )
    _log.warning("what %s holds was made by another version, and is made again", out)
    return None


def _save(result: Any, out: Path, asked: dict[str, Any]) -> None:
    from graticule.hooks.artifact import fingerprint, write_json
    from graticule.hooks.replacing import replacing_entries

    numbers = result.to_json() if asked["theorems"] else _numbers(result)
    request = {"asked": asked, "fingerprint": fingerprint(asked)}
    with replacing_entries(out, "sim") as place:
        result.save(place / "result")
        write_json(place / "sim.json", {**numbers, **request})


def _numbers(result: Any) -> dict[str, Any]:
    """What a simulation measured, setting by setting: every mean with its standard error over runs."""
    settings: list[dict[str, Any]] = []
    for line in result.settings.to_dict("records"):
        means = {name for name in line if f"{name}_se" in line}
        plain = {k: v for k, v in line.items() if k not in means and not k.endswith("_se")}
        settings.append({**plain, **{m: {"mean": line[m], "se": line[f"{m}_se"]} for m in sorted(means)}})
    return {"title": result.title, "settings": settings, "paper": result.paper.to_dict("records")}
