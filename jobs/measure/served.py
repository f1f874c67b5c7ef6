"""What one client of a service sees: single requests over HTTP, each after the answer of the one before."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from cluster import quiet
from jobs.measure.answers import Answer
from serving.bundle import Bundle
from serving.inputs import Input

SERVED = P50, P95 = "served_p50_ms", "served_p95_ms"
CALLS, SECONDS = 300, 10.0  # at most, after a warm-up
TOKENS = 32
PATIENCE_S = 10.0  # for one answer

SMOKE = "where is my order"  # what a service is asked first

log = logging.getLogger(__name__)


def served(endpoint: str, folder: Path, bundle: Bundle, text: str) -> dict[str, float]:
    """`served_p50_ms` and `served_p95_ms` of requests of one input over one connection, client and server included.

    The input has 32 tokens of the bundle's tokenizer, cut from `text` repeated, or is `text` where that cannot be. Both
    figures are those of the quietest of five blocks of calls, as those of the model alone are. Empty, with a warning,
    where the service does not answer each of them: it is deployed all the same.
    """
    from jobs.measure.timing import BLOCKS, interleaved

    try:
        with quiet.measuring("a service"):
            ask = Client(endpoint)
            figures = interleaved({"": ask}, [[_input(folder, bundle, text)]], CALLS, SECONDS, blocks=BLOCKS)[""]
    except (OSError, http.client.HTTPException) as error:
        log.warning("%s: how fast it answers was not measured: %s", endpoint, error)
        return {}
    found = {P50: figures["p50_ms"], P95: figures["p95_ms"]}
    log.info(
        "%s: one client gets an answer in %.2f ms (p50), %.2f ms (p95), over %d requests",
        *(endpoint, found[P50], found[P95], figures["calls"]),
    )
    return found


def words(found: Mapping[str, float]) -> dict[str, str]:
    """The figures as tags of a registered version."""
    return {f"slimcart.{name}": f"{found[name]:.3g}" for name in SERVED if name in found}


class Client:
    """Asks a service over a connection that stays open; raises `OSError` or `HTTPException` for what is no answer."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._path = parts.path
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]:
        """Nothing of the answers: they are not compared."""
        body = json.dumps({"inputs": inputs}).encode()
        try:
            self._ask(body)
        except ConnectionError:  # the server may end a connection between two requests
            self._connection.close()
            self._ask(body)
        return []

    def _ask(self, body: bytes) -> None:
        self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
        with self._connection.getresponse() as response:
            response.read()
            if response.status != http.HTTPStatus.OK:
                raise http.client.HTTPException(f"HTTP {response.status}")


def _input(folder: Path, bundle: Bundle, text: str) -> Input:
    from tokenizers import Tokenizer

    from jobs.measure.timing import texts_of_length

    tokenizer = Tokenizer.from_file(str(folder / bundle.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        (found,) = texts_of_length([text], tokenizer, min(TOKENS, bundle.max_length), 1, bundle.pairs)
    except ValueError:
        found = (text, text) if bundle.pairs else text
    return {"text": found[0], "text_pair": found[1]} if isinstance(found, tuple) else found
