"""Names of a package that are loaded on first use, so that importing the package costs nothing."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], *, packages: Sequence[str] = (), needs: str | None = None
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__all__`, `__getattr__` and `__dir__`.

    A type checker does not see what is loaded so: the package imports the same names, where it is checked
    (`if TYPE_CHECKING:`), and calls this function in the other branch.

    Args:
        package: its `__name__`.
        homes: module, below `graticule`, → the names that it defines, between spaces.
        packages: those in it that are exported too.
        needs: a library that is imported before any of them, the process left as it was.
    """
    home_of = {name: f"graticule.{module}" for module, names in homes.items() for name in names.split()}
    exported = sorted([*home_of, *packages])

    def load_name(name: str) -> Any:
        if name in packages:
            return import_module(f"{package}.{name}")  # which makes it an attribute
        if name == "__version__":
            from importlib import metadata  # thirty milliseconds that nobody else needs

            return metadata.version("graticule")
        if name not in home_of:
            from graticule.hooks.messages import did_you_mean

            near = did_you_mean(name, exported) or f"; it has {', '.join(exported)}"
            raise AttributeError(f"module {package!r} has no attribute {name!r}{near}")
        if needs is not None:
            from graticule.hooks.imports import load

            load(needs)
        value = getattr(import_module(home_of[name]), name)
        vars(import_module(package))[name] = value  # a second look-up does not come here
        return value

    return exported, load_name, lambda: list(exported)
