"""Labels of tokens: the verdict on a model's own tokens, and on concepts that tokens say themselves.

    python benchmarks/attack_tokens.py --texts 500 --json tokens.json
    python benchmarks/attack_tokens.py --worlds hidden token text chance --trials 200

With `--texts`, texts of word lists in six languages are made, each of a few sentences in languages of their
own, some inside quotation marks; the language of every token, and whether it stands inside a quotation, are
known from how they were made. With `--worlds`, token rows of no tokenizer, and activations that read a
planted concept.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import parser, show, write

import graticule
from graticule.hooks.activations import Activations
from graticule.probes.core.labels import NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.core.resample import wilson
from graticule.probes.surface.baselines import Baselines, text_digest

LANGUAGES = {
    "English": "the old house|a young doctor|my sister|the river|our teacher|a small dog|the last train"
    "|his friend"
    "/sees|finds|loves|leaves|paints|forgets|buys|follows"
    "/the green garden|a long letter|the white bridge|some bread|an open window|the quiet street|her book"
    "/in winter|every morning|without a word|near the station|after lunch|once again",
    "French": "la vieille maison|un jeune médecin|ma sœur|la rivière|notre maître|un petit chien"
    "|le dernier train"
    "|son ami/voit|trouve|aime|quitte|peint|oublie|achète|suit"
    "/le jardin vert|une longue lettre|le pont blanc|du pain|une fenêtre ouverte|la rue calme|son livre"
    "/en hiver|chaque matin|sans un mot|près de la gare|après le repas|encore une fois",
    "German": "das alte Haus|ein junger Arzt|meine Schwester|der Fluss|unser Lehrer|ein kleiner Hund"
    "|der letzte Zug"
    "|sein Freund/sieht|findet|liebt|verlässt|malt|vergisst|kauft|verfolgt"
    "/den grünen Garten|einen langen Brief|die weiße Brücke|etwas Brot|ein offenes Fenster"
    "|die stille Straße"
    "|ihr Buch/im Winter|jeden Morgen|ohne ein Wort|nahe dem Bahnhof|nach dem Essen|noch einmal",
    "Spanish": "la vieja casa|un joven médico|mi hermana|el río|nuestro maestro|un perro pequeño"
    "|el último tren"
    "|su amigo/ve|encuentra|ama|deja|pinta|olvida|compra|sigue"
    "/el jardín verde|una larga carta|el puente blanco|un poco de pan|una ventana abierta"
    "|la calle tranquila|su libro"
    "/en invierno|cada mañana|sin una palabra|cerca de la estación|después de comer|otra vez",
    "Italian": "la vecchia casa|un giovane medico|mia sorella|il fiume|il nostro maestro|un piccolo cane"
    "|l'ultimo treno|il suo amico/vede|trova|ama|lascia|dipinge|dimentica|compra|segue"
    "/il giardino verde|una lunga lettera|il ponte bianco|un po' di pane|una finestra aperta"
    "|la strada tranquilla"
    "|il suo libro/in inverno|ogni mattina|senza una parola|vicino alla stazione|dopo pranzo"
    "|ancora una volta",
    "Dutch": "het oude huis|een jonge dokter|mijn zus|de rivier|onze leraar|een kleine hond"
    "|de laatste trein"
    "|zijn vriend/ziet|vindt|bemint|verlaat|schildert|vergeet|koopt|volgt"
    "/de groene tuin|een lange brief|de witte brug|wat brood|een open raam|de stille straat|haar boek"
    "/in de winter|elke ochtend|zonder een woord|bij het station|na het eten|nog een keer",
}
NAMES = ("Anna", "Berlin", "2024", "Karl", "Roma", "Maria", "7", "Paris", "Leo", "Oslo")
"""Words of no language: a token of one has the language of its sentence."""
MARKS = (('"', '"'), ("“", "”"), ("«", "»"), ("'", "'"))


def made_texts(count: int, seed: int) -> tuple[list[str], list[list[Any]], list[list[Any]]]:
    """Texts, the language of every stretch of characters, and the stretches inside quotation marks."""
    rng = np.random.default_rng(seed)
    parts = {name: [p.split("|") for p in words.split("/")] for name, words in LANGUAGES.items()}
    texts: list[str] = []
    languages: list[list[Any]] = []
    quotations: list[list[Any]] = []
    for _ in range(count):
        text, spoken, quoted = "", [], []
        for _ in range(int(rng.integers(2, 5))):
            language = str(rng.choice(list(parts)))
            words = [str(rng.choice(some)) for some in parts[language]]
            words.insert(int(rng.integers(1, 4)), str(rng.choice(NAMES)))
            words = [w for w, stays in zip(words, rng.random(5) < 0.85, strict=True) if stays] or words
            sentence, text = " ".join(words), f"{text} " if text else ""
            if rng.random() < 0.45:
                opening, closing = MARKS[int(rng.integers(len(MARKS)))]
                start = len(text) + len(opening)
                quoted.append((start, start + len(sentence)))
                sentence = f"{opening}{sentence}{closing}"
            spoken.append((len(text), len(text) + len(sentence), language))
            text += sentence + str(rng.choice([".", ",", "!", ""], p=[0.5, 0.2, 0.1, 0.2]))
        texts.append(text)
        languages.append(spoken)
        quotations.append(quoted)
    return texts, languages, quotations


def of_model(args: Any) -> list[dict[str, Any]]:
    """The verdict on both concepts at every token of the texts, and every member of the surface."""
    texts, languages, quotations = made_texts(args.texts, args.seed)
    model = graticule.load_model(args.model)
    lines: list[dict[str, Any]] = []
    captured: dict[str, Any] = {}
    for concept in args.concepts:
        spans = {"language": languages, "quotation": quotations}[concept]
        began = time.process_time()
        # one set of rows for both: tokens between sentences are left out
        spoken = graticule.token_table(model, texts, spans=languages)
        table = spoken
        if concept == "quotation":
            inside = graticule.token_table(model, texts, spans=spans)
            place = {
                key: i
                for i, key in enumerate(zip(inside.frame["text"], inside.frame["position"], strict=True))
            }
            table = inside.take(
                np.array(
                    [place[key] for key in zip(spoken.frame["text"], spoken.frame["position"], strict=True)]
                )
            )
        if not captured:
            where = {"store": args.folder / "activations"} if args.folder else {}
            layers = list(range(0, 99, args.step))
            layers = [layer for layer in layers if layer < model.cfg.n_layers]
            captured["rows"] = graticule.capture(
                model, table.inputs, pos=table.pos, layers=layers, progress=False, **where
            )
            where = {"store": args.folder / "baselines"} if args.folder else {}
            captured["beside"] = graticule.baselines(model, table, layers=layers, progress=False, **where)
        findings = graticule.sweep(captured["rows"], table, baselines=captured["beside"], progress=False)
        print(findings.summary(), flush=True)
        members = [
            {"member": name, **{k: line["test"].get(k) for k in ("bits", "r2")}, "adds": line.get("adds")}
            for name, line in findings.baselines.items()
        ]
        show([{k: "" if v is None else v for k, v in m.items()} for m in members], f"surface, {concept}")
        verdict = findings.verdict
        lines.append({
            "concept": concept, "tokens": len(table), "texts": len(texts), "verdict": verdict.label,
            "probe": verdict.score, "surface": verdict.surface, "gain": verdict.gain,
            "low": verdict.ci95[0], "high": verdict.ci95[1], "layer": findings.chosen_layer,
            "seconds": time.process_time() - began, "members": members,
        })  # fmt: skip
    return lines


# Worlds of no tokenizer ----------------------------------------------------------------------------------
Labels = Callable[[Sequence[np.ndarray], np.random.Generator], list[np.ndarray]]
CONCEPTS: dict[str, Labels] = {
    "hidden": lambda ids, rng: [rng.random(len(row)) < 0.5 for row in ids],
    "token": lambda ids, _: [row % 3 == 0 for row in ids],
    "text": lambda ids, rng: [np.full(len(row), rng.random() < 0.5) for row in ids],
    "chance": lambda ids, rng: [rng.random(len(row)) < 0.5 for row in ids],
    "again": lambda ids, _: [np.array([token in row[:i] for i, token in enumerate(row)]) for row in ids],
    "back": lambda ids, _: [np.concatenate([np.zeros(5, bool), row[:-5] % 2 == 0]) for row in ids],
}
"""Known to the activations alone; said by the token; drawn for each text, or token, and in no activation;
whether this token stood before, as induction heads tell; a class that the token five back has."""
REPEATED = ("again", "back")
"""Of few tokens and longer texts; the activations know the label, or the token five back."""


def one_world(concept: str, args: Any, seed: int) -> str:
    """The verdict on activations of token rows that read a concept, or nothing of it."""
    rng = np.random.default_rng([args.seed, seed, list(CONCEPTS).index(concept)])
    repeated = concept in REPEATED
    most, size = (30, (20, 21)) if repeated else (80, (6, 14))
    ids = [rng.integers(0, most, rng.integers(*size)) for _ in range(args.rows)]
    labels = CONCEPTS[concept](ids, rng)
    table = graticule.token_table(None, [row.tolist() for row in ids], labels, seed=seed)
    rows = table.frame[["text", "position", "token"]].rename(columns={"text": "source"})
    vectors, ways = rng.normal(size=(80, args.width)), rng.normal(size=(args.rows, args.width))
    tokens, text = table.frame["token"].to_numpy(), table.frame["text"].to_numpy()
    # an activation knows its token and its text, as a model's does: tokens of a text depend on each other
    own = vectors[tokens]
    x = own + 0.7 * ways[text] + 0.5 * rng.normal(size=own.shape)
    if concept in ("hidden", "token"):
        x += args.strength * np.outer(table.y[:, 0] - 0.5, rng.normal(size=args.width))
    if repeated:
        far = np.concatenate([np.concatenate([np.zeros((5, 16)), vectors[row[:-5], :16]]) for row in ids])
        known = far if concept == "back" else np.repeat(2 * table.y - 1, 16, axis=1)
        x = np.concatenate([x, known + 0.4 * rng.normal(size=known.shape)], axis=1)
    points = {"blocks.1.hook_resid_post": x, "blocks.2.hook_resid_post": x + 0.3 * rng.normal(size=x.shape)}
    acts = Activations.from_tensors(
        {name: torch.from_numpy(v) for name, v in points.items()}, rows, {"n_inputs": args.rows}
    )
    beside = Activations.from_tensors({"hook_embed": torch.from_numpy(own)}, rows, {"n_inputs": args.rows})
    features = Baselines(text_digest(table), {"token_embedding": beside})
    return graticule.sweep(acts, table, baselines=features, progress=False).verdict.label


def of_worlds(args: Any) -> list[dict[str, Any]]:
    """How often each verdict is given."""
    lines: list[dict[str, Any]] = []
    for concept in args.worlds:
        labels = [one_world(concept, args, trial) for trial in range(args.trials)]
        structure = sum(label == STRUCTURE for label in labels)
        low, high = wilson(structure, args.trials)
        lines.append({
            "concept": concept, "trials": args.trials, "structure": structure, "low": low, "high": high,
            "no better": sum(label == NO_BETTER for label in labels),
            "not decided": sum(label.startswith(NOT_DECIDED) for label in labels),
        })  # fmt: skip
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Run it."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--texts", type=int, default=0, help="texts that a model reads; none by default")
    options.add_argument("--concepts", nargs="*", default=["language", "quotation"])
    options.add_argument("--model", default="gemma-3-270m")
    options.add_argument("--step", type=int, default=3, help="every so many layers are swept")
    options.add_argument("--folder", type=Path, help="for the captures, which are resumed")
    options.add_argument("--worlds", nargs="*", choices=list(CONCEPTS), default=[])
    options.add_argument("--rows", type=int, default=60, help="texts of a world")
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--strength", type=float, default=0.5)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    figures: dict[str, Any] = {}
    if args.texts:
        figures["model"] = of_model(args)
        plain = [{k: v for k, v in line.items() if k != "members"} for line in figures["model"]]
        show(plain, f"{args.texts} texts, {args.model}")
    if args.worlds:
        figures["worlds"] = of_worlds(args)
        show(figures["worlds"], f"{args.rows} texts a world, no tokenizer")
    write(args, figures)


if __name__ == "__main__":
    main()
