"""Asks the Hugging Face Hub what it has: one attempt of seconds, and one line of what it says.

The Hub's own client repeats requests for three quarters of a minute before it says that a name is misspelt.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from configs.given import given, reason
from configs.loader import UsageError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

ASKED_SECONDS = 5.0  # for the Hub to say whether it has something, names looked up and connections made included
Kind = Literal["model", "dataset"]
WORDS: dict[Kind, tuple[str, str]] = {"model": ("folder", "model"), "dataset": ("file", "data set")}

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What is wrong with a name on the Hub, or nothing."""

    refusal: str = ""  # the Hub has no such thing, or does not give it
    trouble: str = ""  # the Hub could not be asked


def check(kind: Kind, name: str, revision: str | None, at: str) -> bool:
    """Whether the Hub has it; False where it cannot be asked and the cache of this machine has it.

    Raises `UsageError` where neither has it. `at` begins the message: the field and its value.
    """
    found = _ask(kind, name, revision)
    here, there = WORDS[kind]
    if found.refusal:
        raise UsageError(f"{at}: no such {here} here, and the Hub {found.refusal}")
    if not found.trouble:
        return True
    if not _is_cached(kind, name):
        raise UsageError(
            f"{at}: no such {here} here, nor in the cache of the Hub, and {found.trouble}; give a {here}, or fetch the "
            f"{there} where the Hub answers: hf download {name}{' --repo-type dataset' if kind == 'dataset' else ''}"
        )
    log.warning("%s: %s; what the cache has of it is used", at, found.trouble)
    return False


def snapshot(name: str, revision: str | None, at: str, patterns: Sequence[str]) -> Path:
    """The folder of a model's files that match `patterns`, downloaded or from the cache. Raises `UsageError`."""
    from huggingface_hub import snapshot_download

    answers = check("model", name, revision, at)
    if answers:
        log.info("%s: files that are not in the cache yet are downloaded from the Hub", at)
    with given(at, "run the same command again: what is downloaded stays", "not downloaded whole"):
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=not answers)
        )


def is_offline() -> bool:
    """Whether the environment forbids to ask the Hub."""
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


@functools.cache
def _ask(kind: Kind, name: str, revision: str | None) -> Asked:
    """Asked once a process: the answer holds for a job."""
    if is_offline():
        return Asked(trouble="HF_HUB_OFFLINE forbids to ask the Hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        _within(ASKED_SECONDS, lambda: ask(name, revision=revision, timeout=ASKED_SECONDS))
    except HFValidationError:
        return Asked("takes no such name; an id is owner/name")
    except HfHubHTTPError as error:
        return _answered(error, WORDS[kind][1], revision)
    except Exception as error:  # noqa: BLE001 - no network, a proxy, a name that is not found: nothing in common
        return Asked(trouble=f"the Hub does not answer ({reason(error)})")
    return Asked()


def _answered(error: HfHubHTTPError, what: str, revision: str | None) -> Asked:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return Asked(f"does not give this {what} ({status}); accept its terms there, and set HF_TOKEN")
    if isinstance(error, RevisionNotFoundError):
        return Asked(f"has no revision {revision!r} of this {what}; give one that it has")
    if isinstance(error, RepositoryNotFoundError):
        return Asked(f"has no such {what} for you; correct the name, or set HF_TOKEN where it is private")
    if status in (401, 403):
        return Asked(f"refuses to answer ({status}); correct the name, or set HF_TOKEN to a token that may read it")
    if status in (404, 410):
        return Asked(f"has no such {what}; correct the name")
    return Asked(trouble=f"the Hub does not answer ({status})")


def _within(seconds: float, call: Callable[[], Any]) -> None:
    """`call()`, given up after so long: a client's own timeouts hold for each step of a request alone."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True, name="hub")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:g} s")
    if raised:
        raise raised[0]


def _is_cached(kind: Kind, name: str) -> bool:
    """Whether anything of it lies in the caches of the Hub's libraries."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = [Path(HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}", "snapshots")]
    if kind == "dataset":
        from datasets import config

        places.append(Path(config.HF_DATASETS_CACHE, name.replace("/", "___")))
    return any(place.is_dir() and any(place.iterdir()) for place in places)
