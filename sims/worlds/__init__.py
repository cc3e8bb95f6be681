"""Worlds made from others, from potentials, or with concepts on a line or a circle.

`RestrictedWorld` keeps some concept vectors, `with_synonyms` and `with_child` add a concept, `markov_field`
has the joint of an undirected graph (`field_graph`), and `smooth_world` has ordered and cyclic concepts.
"""

from graticule.sims.worlds.structures import (
    RestrictedWorld,
    field_graph,
    markov_field,
    with_child,
    with_synonyms,
)
from graticule.sims.worlds.values import Smooth, smooth_world

__all__ = [
    "RestrictedWorld",
    "Smooth",
    "field_graph",
    "markov_field",
    "smooth_world",
    "with_child",
    "with_synonyms",
]
