"""The three views of steering vectors: their colours and names on figures."""

from graticule.probes.plots.style import ACCENT, SURFACE

VIEWS = {"unembedding": ACCENT, "embedding": SURFACE, "mixed": "#117733"}
"""View → colour."""
NAMES = {
    "unembedding": "unembedding",
    "embedding": "embedding",
    "mixed": "unembedding with embedding",
    "log_odds": "log-odds (nats)",
}
"""View → words."""
