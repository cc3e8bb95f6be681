"""Where the paper's results were in 0.1: its modules go on working for one version."""

from graticule.sims.old_names import give_old_modules

_SAME = ("curves", "figures", "reproduce", "setting", "simulate")
__getattr__ = give_old_modules(__name__, {**{name: name for name in _SAME}, "result": "simulation"})
