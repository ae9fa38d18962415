"""What can be wrong with a result, and what may be missing from the environment: one readable line each."""

import importlib
from types import ModuleType


class UnreadableResult(ValueError):
    """The content is not a result, or not one that can be drawn. The text is one line for people."""


class MissingExtra(ImportError):
    """An optional package is not installed. The text says which extra brings it."""


def require(module: str, extra: str) -> ModuleType:
    """Return an optional module. Raises MissingExtra, which names the extra of this distribution that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise MissingExtra(f"{package} is not installed: pip install 'skydriver-client[{extra}]'") from error
