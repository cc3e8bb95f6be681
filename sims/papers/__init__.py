"""Every simulation of Jiang et al. again, beside the paper's own numbers, and the maps that it leaves out.

The names of what can be reproduced stand here, so that a command line can say them without loading anything.
"""

from typing import Literal, get_args

Name = Literal["1", "2", "3", "4", "figure2", "figure5", "figure6", "orthogonality", "scales"]
"""Tables 1 to 4, figures 2, 5 and 6, figure 7a (`orthogonality`), and `scales`, which the paper has not."""

NAMES: tuple[Name, ...] = get_args(Name)
"""All of them."""
