"""Whether the packages of an extra are there, before a command imports them.

What lives here: the one message for what is not installed. What must not: importing it.
"""

from __future__ import annotations

import importlib.util

__all__ = ["need"]


def need(extra: str, *modules: str) -> None:
    """Return if all `modules` can be imported; raise ConfigError that names the extra which brings them."""
    from sftdata.errors import ConfigError, describe

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        fix = f"pip install 'sftdata[{extra}]'"
        raise ConfigError(describe(f"{' and '.join(missing)} {verb} not installed", fix=fix))
