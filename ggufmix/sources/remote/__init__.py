"""Sources that are not on this machine: the Hugging Face hub, web servers, object stores."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from ...errors import UsageError
from ..storage import shown
from .addresses import Address, check_local, is_remote, label, parse, suffix
from .folder import RemoteFolder, Store
from .patience import Patience

__all__ = ["RemoteFolder", "check_local", "is_remote", "open_folder", "suffix"]


def open_folder(src: str) -> tuple[RemoteFolder, str | None]:
    """The folder that an address names, and the file in it that is meant, or None for all of it.

    Asks the hub for the commit that is read from now on; of others nothing yet. Raises UsageError
    for an address that means nothing, or where the extra "hub" is not installed; SourceError.
    """
    address = parse(src)
    patience = Patience()
    try:
        return RemoteFolder(_store(address, patience), patience), address.name
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{shown(label(src))}: sources that are not on this machine need {error.name}",
            hint='pip install "ggufmix[hub]"',
        ) from None


def _store(address: Address, patience: Patience) -> Store:
    if address.kind == "hub":
        from .hub import HubFolder

        return HubFolder(address, patience)
    if address.kind == "web":
        from .web import WebFolder

        return WebFolder(address)
    from .stores import StoreFolder

    return StoreFolder(address)
