"""One repository: the Python modules of a folder, and how it is found."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
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
    """Find the code around a ``networks`` package without running it: the folder that holds the package.

    Args:
        networks: the package, or its dotted name.

    Raises:
        AdapterError: there is no such package, or it has no file.
    """
    name = networks if isinstance(networks, str) else networks.__name__
    module = sys.modules.get(networks) if isinstance(networks, str) else networks
    file = _find_file(name) if module is None else getattr(module, "__file__", None)
    if not file:
        raise AdapterError(f"{name} has no file; give the package of a Monodepth2 checkout.")
    path = Path(os.path.realpath(file))
    return Repository(path.parents[1] if path.name == "__init__.py" else path.parent)


def _find_file(name: str) -> str | None:
    """Return where a module that is not imported yet would come from."""
    if not name or name.startswith("."):
        raise AdapterError(f"{name!r} is not the full name of a package; name it as in an import, with networks=.")
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):
            raise  # the package is there, and something that it needs is missing
        spec = None
    if spec is None:
        raise AdapterError(
            f"there is no module {name!r}; run the script from a Monodepth2 checkout, put the checkout's "
            "folder on sys.path, or name its package with networks=."
        )
    return spec.origin
