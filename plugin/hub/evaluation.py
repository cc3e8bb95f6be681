"""What was measured of an SAE, as a card shows it: figures under their names, and how often latents fire, a
histogram and its PNG, drawn without a graphics library.

The Hub serves a repository's own text files, SVG among them, as plain text, so that a picture has to be PNG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graticule.hooks.values import finite
from graticule.hub.markdown import is_number

EVALUATION: tuple[tuple[str, str, str], ...] = (
    ("l0", "L0", "latents active a token"),
    ("explained_variance", "explained variance", "1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²"),
    (
        "loss_recovered_zero",
        "loss recovered, against zero ablation",
        "(L zero − L SAE) / (L zero − L clean); a flattering floor",
    ),
    (
        "loss_recovered_mean",
        "loss recovered, against mean ablation",
        "(L mean − L SAE) / (L mean − L clean)",
    ),
    ("kl", "KL to the clean model", "nats a token"),
    ("dead_fraction", "dead latents", "share of latents that never fired on the sample"),
)
"""Key in `evaluation.json`, its name on the card, what it is; these are in the front matter too."""
FURTHER = {
    "explained_variance_without_top": "explained variance without the largest principal directions",
    "cosine_median": "cosine of row and reconstruction, median",
    "norm_ratio": "norm of the reconstruction over the row's",
    "mse": "squared error a token",
    "ce_clean": "loss of the clean model, nats",
    "ce_sae": "loss with the SAE, nats",
    "ce_zero": "loss with zeros, nats",
    "ce_mean": "loss with the mean, nats",
    "alive": "latents alive",
    "dead": "latents dead",
    "ultralow": "latents in the ultralow-density cluster",
    "always_on": "latents always on",
    "copies": "latents that copy another",
}
"""Further keys and their names."""

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 20, 40
_BAR, _AXIS, _GRID = (31, 111, 180), (60, 60, 60), (225, 225, 225)
_SCALE = 2

# 3 by 5 dots per glyph, one octal digit per row, top first
_GLYPHS = {
    "0": "75557",
    "1": "26227",
    "2": "71747",
    "3": "71717",
    "4": "55711",
    "5": "74717",
    "6": "74757",
    "7": "71122",
    "8": "75757",
    "9": "75717",
    "-": "00700",
    "e": "02563",
}


def defined_figures(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of an evaluation without shares of a loss that was not there to be recovered."""
    return {
        key: value
        for key, value in evaluation.items()
        if not costs_nothing(evaluation, key.removeprefix("loss_recovered_"))
    }


def costs_nothing(evaluation: Mapping[str, Any], ablation: str) -> bool:
    """Whether the model loses nothing by an ablation (`zero`, `mean`): then there is no loss to recover."""
    clean, ablated = (evaluation.get(f"ce_{run}") for run in ("clean", ablation))
    return is_number(clean) and is_number(ablated) and float(ablated or 0) <= float(clean or 0)


# How often latents fire --------------------------------------------------------------------------------
def histogram(
    log10_frequency: np.ndarray, low: float = -10.0, step: float = 0.25
) -> tuple[tuple[float, int], ...]:
    """Latents a bin of log10 firing frequency, from `low` to 0; what lies outside is in the outer bins.

    Raises:
        NonFiniteError: for what is no number; minus infinity is a latent that never fired.
    """
    bins = round(-low / step)
    fired = log10_frequency != -np.inf
    finite("log10 firing frequencies", log10_frequency, lambda i: f"of latent {i}", counted=fired)
    placed = np.where(fired, log10_frequency.astype(np.float64), low)
    place = np.clip(np.floor((placed - low) / step), 0, bins - 1).astype(int)
    counts = np.bincount(place, minlength=bins)
    return tuple((low + step * i, int(n)) for i, n in enumerate(counts))


def density_png(density: Sequence[tuple[float, int]]) -> bytes:
    """Latents a bin of log10 firing frequency as a PNG of 720 by 280 pixels; the same input, the same bytes.

    Raises:
        ValueError: for an empty histogram.
    """
    if not density:
        raise ValueError("no histogram to draw: the SAE has no sparsity.safetensors")
    page = np.full((_HEIGHT, _WIDTH, 3), 255, dtype=np.uint8)
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    low = density[0][0]
    top = max([1, *(count for _, count in density)])

    def across(value: float) -> int:
        return _LEFT + round((value - low) / -low * (right - _LEFT))

    for height in (0.5, 1.0):
        y = floor - round(height * (floor - _TOP))
        page[y, _LEFT:right] = _GRID
    edges = [*(edge for edge, _ in density), 0.0]
    for (edge, count), end in zip(density, edges[1:], strict=True):
        tall = round(count / top * (floor - _TOP))
        tall = max(tall, 1) if count else 0  # one latent is still seen
        page[floor - tall : floor, across(edge) + 1 : max(across(end), across(edge) + 2)] = _BAR
    page[floor, _LEFT:right] = _AXIS
    page[_TOP : floor + 1, _LEFT] = _AXIS
    for decade in range(int(low), 1, 2):
        x = across(float(decade))
        page[floor : floor + 5, x - 1 : x + 1] = _AXIS
        _write(page, f"1e{decade}", x, floor + 12, centred=True)
    _write(page, str(top), _LEFT - 8, _TOP - 5, centred=False)
    _write(page, "0", _LEFT - 8, floor - 5, centred=False)
    return _png(page)


def _write(page: np.ndarray, text: str, x: int, y: int, centred: bool) -> None:
    """Draw `text` with its middle (or its right end) at column `x`, its top at row `y`."""
    step = 4 * _SCALE
    width = len(text) * step - _SCALE
    x = x - width // 2 if centred else x - width
    for letter in text:
        for row, bits in enumerate(_GLYPHS[letter]):
            for column in range(3):
                if int(bits) & (4 >> column):
                    a, b = y + row * _SCALE, x + column * _SCALE
                    page[a : a + _SCALE, max(b, 0) : b + _SCALE] = _AXIS
        x += step


def _png(page: np.ndarray) -> bytes:
    height, width, _ = page.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), page.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        )
    )
