"""API keys: who may ask which services of a process, how often and until when.

    python -m serving.keys add <name> [--services intent,reply] [--rate 60] [--daily 1000] [--expires 2027-12-31]
    python -m serving.keys list
    python -m serving.keys revoke <id>

`add` prints the key, which nobody can read again: the file holds its hash alone. --file names the file, by default
$SLIMCART_HOME/keys.json; run the command as the user that the services run as, who alone may read it. What `add`
prints must not be kept in a log, so a submitted job may not run it.

Exit 0, 1 with one line where the file cannot be written, 2 with one line where the command is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, Self

from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from configs.errors import KnownError, UsageError
from configs.folder import held, write_synced
from configs.loader import Spec
from configs.schema.serving import KEY, KEY_PREFIX, service_name

ID_CHARACTERS = 12
SECRET_BYTES = 32
LARGEST_BYTES = 8 << 20  # some 25,000 keys
MODE = 0o600
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for what `ray job submit` starts
COLUMNS = ("id", "name", "state", "services", "a minute", "a day", "created", "expires")


class Key(Spec):
    """What is stored of a key."""

    id: str = Field(pattern=rf"^[0-9a-f]{{{ID_CHARACTERS}}}$")
    name: str = Field(min_length=1, max_length=100)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    services: list[str] | None = Field(description="that it may ask; none = all")
    rate: int | None = Field(ge=1, description="requests a minute; none = any number")
    daily: int | None = Field(ge=1, description="requests a day of UTC; none = any number")
    created: AwareDatetime
    expires: AwareDatetime | None
    revoked: AwareDatetime | None

    @field_validator("name")
    @classmethod
    def name_is_printable(cls, name: str) -> str:
        if not name.isprintable() or KEY.search(name):
            raise ValueError("a name is a line of printable characters, and no key")
        return name

    @field_validator("services")
    @classmethod
    def services_are_names(cls, services: list[str] | None) -> list[str] | None:
        return services if services is None else [service_name(each) for each in services]

    def state(self, now: datetime) -> str:
        """`valid`, `revoked` or `expired`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"

    def may_ask(self, service: str) -> bool:
        """Whether it may ask the service, whether that runs or not."""
        return self.services is None or service in self.services


class KeyFile(Spec):
    """The file."""

    format: Literal[1]
    keys: list[Key]

    @model_validator(mode="after")
    def ids_differ(self) -> Self:
        if len({each.id for each in self.keys}) < len(self.keys):
            raise ValueError("an id stands twice")
        return self


KNOWN_PLACE = re.compile(rf"format|keys(?:\.\d+(?:\.(?:{'|'.join(Key.model_fields)}))?)?")


class Content(NamedTuple):
    """What a file holds, and what told it from its other states."""

    keys: list[Key]
    state: object


def hash_of(key: bytes) -> str:
    """What is stored in place of a key: its SHA-256, in hex.

    Slow hashes protect secrets that somebody chose, since these can be guessed. A key is 32 random bytes.
    """
    return hashlib.sha256(key).hexdigest()


def state_of(status: os.stat_result) -> object:
    """What differs after a file was written or replaced."""
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def read(path: Path) -> Content:
    """The keys of a file. Raises `UsageError`, which names the file and quotes nothing of it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for who writes to it
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: no plain file; give one that python -m serving.keys has made")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UsageError(f"{path}: others than its owner may write it, and so make keys; chmod go-w {path}")
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; python -m serving.keys add <name> --file {path} makes it") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_BYTES:
        raise UsageError(f"{path}: larger than {LARGEST_BYTES >> 20} MiB; remove keys, or use several files")
    try:
        return Content(KeyFile.model_validate_json(content).keys, state_of(status))
    except ValidationError as error:
        at = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"][:3])
        where = f"wrong at {at}" if KNOWN_PLACE.fullmatch(at) else "not JSON of the right form"
        raise UsageError(f"{path}: no file of keys: {where}; restore it, or move it away and add keys anew") from None


def usable(path: Path, field: str) -> Path:
    """The path, if its file holds a key with which somebody can ask now. Raises `UsageError`, naming `field`."""
    try:
        keys = read(path).keys
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from None
    now = datetime.now(UTC)
    if not any(each.state(now) == "valid" for each in keys):
        add = f"python -m serving.keys add <name> --file {path}"
        raise UsageError(f"{field}: {path}: holds no key that is valid now; {add} makes one")
    return path


def add(
    path: Path,
    name: str,
    services: Sequence[str] | None = None,
    rate: int | None = None,
    daily: int | None = None,
    expires: datetime | None = None,
) -> str:
    """Add a key to the file, which is made where it is not there; returns the key, which is stored nowhere.

    Raises `UsageError`, and `KnownError` where the file cannot be written.
    """
    made_id = secrets.token_hex(ID_CHARACTERS // 2)
    key = f"{KEY_PREFIX}{made_id}_{secrets.token_hex(SECRET_BYTES)}"
    now = datetime.now(UTC).replace(microsecond=0)
    told = {"id": made_id, "name": name, "hash": hash_of(key.encode()), "services": services, "rate": rate}
    try:
        made = Key.model_validate(told | {"daily": daily, "created": now, "expires": expires, "revoked": None})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{first['loc'][0]}: {said}") from None
    _change(path, lambda keys: [*keys, made], may_be_new=True)
    return key


def revoke(path: Path, key_id: str) -> Key:
    """End a key; returns what is stored of it. Once more changes nothing. Raises as `add` does."""
    now = datetime.now(UTC).replace(microsecond=0)
    found: list[Key] = []

    def ended(keys: list[Key]) -> list[Key]:
        if not any(each.id == key_id for each in keys):
            raise UsageError(
                f"revoke: {path}: holds no key of this id, which is the {ID_CHARACTERS} characters after {KEY_PREFIX}; "
                "python -m serving.keys list shows them"
            )
        changed = [
            each.model_copy(update={"revoked": each.revoked or now}) if each.id == key_id else each for each in keys
        ]
        found.extend(each for each in changed if each.id == key_id)
        return changed

    _change(path, ended)
    return found[0]


def _change(path: Path, change: Callable[[list[Key]], list[Key]], may_be_new: bool = False) -> None:
    """Replace the file by another with the changed keys, one writer at a time."""
    try:
        if may_be_new:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            read(path)  # which refuses one that is not there
        target = path.resolve()  # a link stays one
        lock = target.with_name(f".{target.name}.lock")
        with held(lock, f"process {os.getpid()}", lambda owner: f"waiting for {path}: {owner} writes it"):
            if there := target.exists():
                _check_owner(target)
            keys = change(read(path).keys if there else [])
            text = KeyFile(format=1, keys=keys).model_dump_json(indent=2) + "\n"
            write_synced(target, text, MODE)
    except OSError as error:
        raise KnownError(f"{path}: not written: {error.strerror}; give another --file") from None


def _check_owner(path: Path) -> None:
    """The new file belongs to who writes it: another owner's services could not read it any more."""
    if (owner := path.stat().st_uid) != os.geteuid():
        raise UsageError(f"{path}: belongs to user {owner}, and only they could read it; run this as that user")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    try:
        options = _parser().parse_args(arguments)
        options.run(options, _file(options.file))
    except KnownError as error:
        print(KEY.sub(f"{KEY_PREFIX}...", str(error)), file=sys.stderr)  # a key may stand where an id should
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _file(given: str | None) -> Path:
    if given:
        return Path(given)
    if not (home := os.environ.get("SLIMCART_HOME")):
        raise UsageError("--file: SLIMCART_HOME is not set, below which keys.json would lie; give --file")
    return Path(home).absolute() / "keys.json"


def _add(options: argparse.Namespace, path: Path) -> None:
    if IN_A_JOB in os.environ:
        raise UsageError("add: this is a submitted job, and its log would keep the key; run it in a shell")
    services = None if options.services is None else options.services.split(",")
    key = add(path, options.name, services, options.rate, options.daily, _end(options.expires))
    print(key)
    print("this is the key; it is shown once, and only its hash is kept", file=sys.stderr)


def _list(_: argparse.Namespace, path: Path) -> None:
    now = datetime.now(UTC)
    rows = [COLUMNS, *(_row(each, now) for each in read(path).keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(key: Key, now: datetime) -> tuple[str, ...]:
    limits = ("any" if each is None else str(each) for each in (key.rate, key.daily))
    services = "all" if key.services is None else ",".join(key.services)
    expires = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
    return (key.id, key.name, key.state(now), services, *limits, f"{key.created:%Y-%m-%d %H:%M}", expires)


def _revoke(options: argparse.Namespace, path: Path) -> None:
    key = revoke(path, options.id)
    print(f"{key.id} ({key.name}) is revoked")


def _end(text: str | None) -> datetime | None:
    """The end of a day of UTC, or so many days from now. Raises `UsageError`."""
    if text is None:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        if days := re.fullmatch(r"([0-9]{1,5})d", text):
            end = now + timedelta(days=int(days[1]))
        else:
            end = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise UsageError("--expires: give a day such as 2027-12-31, or days from now such as 90d") from None
    if end <= now:
        raise UsageError(f"--expires: {text} is over already; give a later day")
    return end


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python -m serving.keys --help")


def _parser() -> argparse.ArgumentParser:
    # Not in the command alone: `--file` may stand before it or after it.
    file = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    file.add_argument("--file", help="file of the keys (default $SLIMCART_HOME/keys.json)")
    parser = _Parser(prog="python -m serving.keys", description="make, list and revoke API keys")
    parser.add_argument("--file", help="file of the keys (default $SLIMCART_HOME/keys.json)")
    commands = parser.add_subparsers(required=True, metavar="add|list|revoke")
    added = commands.add_parser("add", parents=[file], help="make a key and print it, once")
    added.set_defaults(run=_add)
    added.add_argument("name", help="whose key it is")
    added.add_argument("--services", help="services that it may ask, separated by commas (default all)")
    added.add_argument(
        "--rate", type=_count, help="requests a minute of each process that answers (default any number)"
    )
    added.add_argument("--daily", type=_count, help="requests a day of UTC of each process (default any number)")
    added.add_argument("--expires", help="last day (of UTC), such as 2027-12-31, or days from now, such as 90d")
    commands.add_parser("list", parents=[file], help="show keys, without what they are").set_defaults(run=_list)
    revoked = commands.add_parser("revoke", parents=[file], help="end a key at once")
    revoked.set_defaults(run=_revoke)
    revoked.add_argument("id", help="as list shows it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
