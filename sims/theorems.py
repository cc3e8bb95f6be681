"""Where the theorems' checks were in 0.1: its modules go on working for one version."""

from graticule.sims.old_names import give_old_modules

_SAME = ("log_odds", "oracle", "products", "tables")
_MOVED = {"run": "theorems", "descent": "descents", "limits": None, "result": None}
__getattr__ = give_old_modules(__name__, {**{name: name for name in _SAME}, **_MOVED})
