"""The prompts of the space-and-time paper, and prompts of one's own: what stands around an entity.

Gurnee & Tegmark (arXiv 2310.02207), sections 2.1 and 3.3. The activation is that of the entity's last token;
for headlines, which end in a period, that is the period unless the prompt takes it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from graticule.hooks.messages import NotApplicable
from graticule.hooks.protocols import HookedModel
from graticule.hooks.tokens import Inputs, tokenize


@dataclass(frozen=True)
class Prompt:
    """One way to put an entity to a model."""

    name: str
    """A short name: a folder's, and a line's in a figure."""
    template: str = ""
    """Text before the entity (a trailing space counts), or text with one slot `{}` for it."""
    upper: bool = False
    """Whether the entity is put in capitals."""
    drop_last: bool = False
    """Whether the entity's last character, a headline's period, is dropped."""
    random_ids: int = 0
    """Token ids drawn anew for each row, between BOS and the entity: uniform in `[random_low, max id)`, where
    max id is the largest token id of any entity of the table."""
    random_low: int = 100
    """The smallest id drawn."""
    seed: int = 0
    """Of the random ids; the draw depends on it and on the rows alone."""
    pos: Literal["entity_last", "last"] = "entity_last"
    """The entity's last token, or the whole text's (a period after the slot, say)."""

    def __post_init__(self) -> None:
        braces = self.template.count("{") + self.template.count("}")
        if braces and (braces != 2 or self.template.count("{}") != 1):
            raise ValueError(
                f"prompt {self.name!r}: template {self.template!r} needs exactly one slot {{}} for the "
                "entity and no other braces, or none at all (then it stands before the entity)"
            )
        if not self.name or any(c in self.name for c in '/\\:*?"<>|'):
            raise ValueError(f"prompt name {self.name!r}: needed as a folder's name; use letters and _")
        if self.random_ids < 0 or self.random_low < 0:
            raise ValueError(f"prompt {self.name!r}: random_ids and random_low are 0 or more")
        if self.random_ids and self.template:
            raise ValueError(
                f"prompt {self.name!r}: random ids stand between BOS and the entity; leave template empty"
            )

    @property
    def words(self) -> str:
        """The prompt for people, with the entity as `…`."""
        entity = "ENTITY" if self.upper else "…"
        text = self.template.replace("{}", entity) if "{}" in self.template else self.template + entity
        if self.random_ids:
            return f"({self.random_ids} random tokens) {text}"
        return text + (" (last character dropped)" if self.drop_last else "")

    def texts(self, entities: Sequence[str]) -> list[str]:
        """The entities as this prompt has them, without what stands around them.

        Raises:
            ValueError: An entity has no more than the one character to be dropped.
        """
        out = [e[:-1] if self.drop_last else e for e in entities]
        for i, text in enumerate(out):
            if not text.strip():
                raise ValueError(f"prompt {self.name!r} leaves nothing of entity {i} ({entities[i]!r})")
        return [text.upper() for text in out] if self.upper else out

    def inputs(
        self, model: HookedModel, entities: Sequence[str], prepend_bos: bool | None = None
    ) -> tuple[Inputs, str, Literal["entity_last", "last"] | int]:
        """What `capture(model, inputs, prompt=…, pos=…)` takes: `(inputs, prompt, pos)`.

        Texts with their template, or, for random ids, rows of token ids whose last one is the entity's; these
        get their special tokens here, as `prepend_bos` says.

        Raises:
            ValueError: As `texts` does; there is no tokenizer, or the entities' ids leave nothing to draw.
        """
        texts = self.texts(entities)
        if not self.random_ids:
            return texts, self.template, self.pos
        rows = tokenize(model, texts, "", prepend_bos)
        drawn = random_ids(rows.ids, self.random_ids, self.random_low, self.seed)
        ids = [
            [*row[:start].tolist(), *extra, *row[start:].tolist()]
            for row, extra, (start, _) in zip(rows.ids, drawn.tolist(), rows.own, strict=True)
        ]
        behind = rows.lengths[0] - rows.own[0][1]  # special tokens after the entity
        return ids, "", "last" if not behind else -1 - behind


def random_ids(rows: Sequence[np.ndarray], count: int, low: int, seed: int) -> np.ndarray:
    """`[row, count]` token ids, uniform in `[low, largest id of any row)`; NotApplicable if there is none."""
    high = max(int(row.max()) for row in rows)
    if high <= low:
        raise NotApplicable(
            f"random ids are drawn from {low} up to the entities' largest token id, which is {high}: "
            "nothing to draw; set random_low"
        )
    return np.random.default_rng(seed).integers(low, high, size=(len(rows), count))


_COORDS = "What are the lat/lon coordinates of "
_EMPTY, _RANDOM = Prompt("empty"), Prompt("random", random_ids=10)
_CAPS = Prompt("empty_all_caps", upper=True)


def _named(*prompts: Prompt) -> dict[str, Prompt]:
    return {p.name: p for p in prompts}


PROMPTS: Mapping[str, Mapping[str, Prompt]] = {
    "world_place": _named(_EMPTY, _CAPS, _RANDOM, Prompt("coords", _COORDS)),
    "us_place": _named(
        _EMPTY, _RANDOM, Prompt("coords", _COORDS), Prompt("where_us", "Where in the United States is ")
    ),
    "nyc_place": _named(
        _EMPTY,
        _RANDOM,
        Prompt("where_is", "Where is "),
        Prompt("where_nyc", "Where in New York City is "),
    ),
    "historical_figure": _named(
        _EMPTY,
        _RANDOM,
        Prompt("when", "When did "),
        Prompt("when_all_caps", "When did ", upper=True),
    ),
    "art": _named(_EMPTY, _RANDOM, Prompt("release", "When was the release date of "), _CAPS),
    "headline": _named(
        _EMPTY,
        Prompt("empty_wo_period", drop_last=True),
        Prompt("when_w_period", "Publication date of: "),
        Prompt("when_wo_period", "Publication date of: ", drop_last=True),
    ),
}
"""Table → name → prompt, as in the authors' final code."""
BEST_PROMPT: Mapping[str, str] = {
    "world_place": "coords",
    "us_place": "coords",
    "nyc_place": "where_nyc",
    "historical_figure": "when",
    "art": "release",
    "headline": "when_w_period",
}
"""The prompt of the paper's main results, table by table."""
_SAME = {"world_cities": "world_place", "historical_figures": "historical_figure"}


def prompts_of(table: str) -> Mapping[str, Prompt]:
    """The paper's prompts for a table, by the table's name; `world_cities` and `historical_figures` have
    those of their kind, any other table the empty one, capitals and random ids."""
    kind = table.split(" ")[0]
    kind = _SAME.get(kind, kind)
    return PROMPTS.get(kind, _named(_EMPTY, _CAPS, _RANDOM))


def read_prompts(
    given: Mapping[str, str | Prompt] | Sequence[str | Prompt] | None, table: str
) -> dict[str, Prompt]:
    """Prompts by name: of a mapping name → template, or of a list of the table's own names and templates.

    A word of a list that is no name of the table's prompts is a template; its name is made of its words.

    Raises:
        ValueError: There is no prompt, two have one name, or a template does not fit.
        TypeError: There is anything but texts and `Prompt`s.
    """
    own = prompts_of(table)
    if given is None:
        return dict(own)
    if isinstance(given, str) or not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"prompts={given!r}: pass a list, or a mapping of names to templates")
    items = list(given.items()) if isinstance(given, Mapping) else [(None, p) for p in given]
    out: dict[str, Prompt] = {}
    for name, prompt in items:
        read = _read(name, prompt, own)
        if read.name in out:
            raise ValueError(f"two prompts are named {read.name!r}: pass a mapping with a name each")
        out[read.name] = read
    if not out:
        raise ValueError(f"no prompts; the table's own are {', '.join(own)}")
    return out


def _read(name: str | None, prompt: object, own: Mapping[str, Prompt]) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt if name is None else replace(prompt, name=name)
    if not isinstance(prompt, str):
        raise TypeError(f"prompt {name or ''} is {type(prompt).__name__}: pass a text or a Prompt")
    if name is None:
        return own[prompt] if prompt in own else Prompt(_slug(prompt), prompt)
    return Prompt(name, prompt)


def _slug(template: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in template.replace("{}", " ")).split()
    return "_".join(words[:6]).lower() or "empty"
