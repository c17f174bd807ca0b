"""One repository: the Python modules of a folder, and how it is found."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from hybrid_encoder.errors import AdapterError

_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD_LIBRARY = os.path.realpath(sysconfig.get_paths()["stdlib"])


class Repository:
    """The Python modules whose files lie in one folder.

    An environment kept inside that folder (``.venv``) does not belong to the repository.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = os.path.realpath(root)

    def owns(self, file: object) -> bool:
        """Return whether a module's ``__file__`` lies in the repository."""
        if not isinstance(file, str):
            return False
        path = os.path.realpath(file)
        if not path.startswith(self.root + os.sep):
            return False
        inside = path[len(self.root) :].split(os.sep)
        return _INSTALLED.isdisjoint(inside) and not path.startswith(_STANDARD_LIBRARY + os.sep)

    def loaded_modules(self) -> list[ModuleType]:
        """Return its modules that have been imported, the running script (``__main__``) among them."""
        # vars() instead of getattr: lazily filled modules would start importing.
        modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
        return [module for module in modules if self.owns(vars(module).get("__file__"))]


def find_repository(networks: str | ModuleType) -> Repository:
    """Find the code around a module that holds networks, without running any of it.

    It is the folder on ``sys.path`` that holds the module, or the package that it is in; of an installed package, the
    package's own folder.

    Args:
        networks: the module, or its dotted name.

    Raises:
        AdapterError: there is no such module, or it has no file.
    """
    module = sys.modules.get(networks) if isinstance(networks, str) else networks
    name = networks if isinstance(networks, str) else networks.__name__
    place = _find_place(name) if module is None else _place_of(module)
    if place is None:
        raise AdapterError(f"{name} has no file; give a module of the codebase's checkout.")
    top = Path(place)
    for _ in name.split("."):
        top = top.parent
    return Repository(top if top.name not in _INSTALLED else top / name.partition(".")[0])


def search_folders(networks: Sequence[str | ModuleType] | None, usual: str) -> list[str]:
    """Return the folders in which a checkout is looked for, first come first.

    Args:
        networks: modules that were named; the folder of their code is the only one then.
        usual: name of the module that is meant where none was named; where it is imported already, it says the folder.
    """
    if networks:
        return [find_repository(networks[0]).root]
    if usual in sys.modules:
        return [find_repository(usual).root]
    return [os.path.realpath(folder or os.getcwd()) for folder in sys.path]


def _place_of(module: ModuleType) -> str | None:
    """Return where an imported module lies: its file without the suffix, or its folder."""
    file = vars(module).get("__file__")
    if not file:
        folders = list(vars(module).get("__path__", ()))  # a folder without __init__.py
        return os.path.realpath(folders[0]) if folders else None
    path = Path(os.path.realpath(file))
    return str(path.parent if path.name == "__init__.py" else path.with_suffix(""))


def _find_place(name: str) -> str | None:
    """Return where a module that is not imported yet would come from: its file without the suffix, or its folder."""
    if not name or name.startswith("."):
        raise AdapterError(f"{name!r} is not the full name of a module; name it as in an import, with networks=.")
    top, _, rest = name.partition(".")
    try:
        # Of the top-level package alone: to look for a module inside it, Python would run it.
        spec = importlib.util.find_spec(top)
    except ValueError:
        spec = None  # a module that was made by hand
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if spec is None or (rest and not any(_holds(folder, rest) for folder in folders)):
        raise AdapterError(
            f"there is no module {name!r}; run the script from a checkout, put the checkout's "
            "folder on sys.path, or name the module that holds its networks with networks=."
        )
    place = folders[0] if folders else spec.origin and os.path.splitext(spec.origin)[0]
    return os.path.join(os.path.realpath(place), *rest.split(".")) if place and rest else place


def _holds(folder: str, module: str) -> bool:
    """Return whether a package's folder holds a module of a dotted name."""
    path = os.path.join(folder, *module.split("."))
    return os.path.isdir(path) or os.path.isfile(f"{path}.py")
