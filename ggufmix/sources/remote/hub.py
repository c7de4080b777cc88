"""Repositories of the Hugging Face hub, at one commit."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from ...errors import SourceError
from ..storage import shown
from .addresses import Address
from .folder import TEMPLATES, Store
from .patience import Patience, TransientError
from .web import STALL_SECONDS, Client, WebFile

_PASSING = (408, 425, 429, 500, 502, 503, 504)


class HubFolder(Store):
    """A repository, or a folder of one, at the commit that its revision meant when it was opened.

    Token, endpoint and proxies are those of huggingface_hub: HF_TOKEN or `hf auth login`,
    HF_ENDPOINT.
    """

    def __init__(self, address: Address, patience: Patience) -> None:
        self._repository = address.root
        self._below = f"{address.below}/" if address.below else ""
        asked = f"@{address.revision}" if address.revision else ""
        told = shown(f"hf://{address.root}{asked}")
        found = patience.insist(lambda _: _info(address, told), told)
        if found.sha is None:
            raise SourceError(f"{told}: expected the hub to name a commit, it names none")
        self._commit = found.sha
        self.revision = f"hf://{address.root}@{self._commit}"
        self.where = shown(f"hf://{address.root}@{self._commit[:8]}/{self._below}".rstrip("/"))
        self._sizes = {
            file.rfilename.removeprefix(self._below): file.size
            for file in found.siblings or ()
            if file.rfilename.startswith(self._below)
        }
        endpoint = urlsplit(constants.ENDPOINT)
        implicit = not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
        token = huggingface_hub.get_token() if implicit else None
        secret = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = Client({f"{endpoint.scheme}://{endpoint.netloc}": secret})

    def names(self) -> list[str]:
        """Names of the files right in the folder."""
        return sorted(name for name in self._sizes if "/" not in name)

    def open(self, name: str) -> WebFile | None:
        """A file of the commit."""
        if name not in self._sizes:
            return None
        size = self._sizes[name]
        if size is None:
            raise SourceError(f"{shown(name)}: the hub does not say how long the file is")
        url = huggingface_hub.hf_hub_url(
            self._repository, self._below + name, revision=self._commit, endpoint=constants.ENDPOINT
        )
        file = WebFile(self._client, url, shown(name), size, pinned=True)
        file.revision = self.revision
        return file

    def templates(self) -> list[str]:
        """Names of further chat templates."""
        inside = [n.removeprefix(f"{TEMPLATES}/") for n in self._sizes if n.startswith(TEMPLATES)]
        return [name for name in inside if "/" not in name and name.endswith(".jinja")]

    def everything(self) -> list[str]:
        """Names of all files, "/" in those below the folder."""
        return sorted(self._sizes)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()


def _info(address: Address, told: str) -> huggingface_hub.ModelInfo:
    """What the hub says of a revision. The messages of the library are not passed on: they have
    addresses and ids of requests.
    """
    try:
        return huggingface_hub.HfApi().model_info(
            address.root, revision=address.revision, timeout=STALL_SECONDS, files_metadata=True
        )
    except hub_errors.GatedRepoError:
        raise SourceError(
            f"{told}: access has to be granted first",
            hint="accept the terms on the model's page, then `hf auth login` or set HF_TOKEN",
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise SourceError(f"{told}: no such revision") from None
    except hub_errors.RepositoryNotFoundError:
        raise SourceError(
            f"{told}: no such model, or a private one",
            hint="for a private one `hf auth login` or set HF_TOKEN",
        ) from None
    except hub_errors.OfflineModeIsEnabled:
        raise SourceError(f"{told}: HF_HUB_OFFLINE is set") from None
    except hub_errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else None
        if code in _PASSING:
            raise TransientError(f"the hub answered {code}") from None
        raise SourceError(f"{told}: the hub answered {code}") from None
    except hub_errors.HFValidationError:
        raise SourceError(f"{told}: no name that a model on the hub can have") from None
    except Exception as error:  # of the HTTP library, which differs between versions of the hub's
        raise TransientError(f"the hub cannot be reached ({type(error).__name__})") from None
