"""Values of settings: what each may be, and how a wrong one is reported without showing secrets."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dotenv import dotenv_values

if TYPE_CHECKING:
    from pydantic import ValidationError

PREFIX: Final = "ONESHEET_"
ENV_FILE: Final = ".env"
# With or without the byte order mark that editors on Windows write.
ENV_ENCODING: Final = "utf-8-sig"

# What Kubernetes tells every pod of each service in its namespace: of one that is called onesheet, by our prefix.
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
_SERVICE_LINK_NAME: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@*]+", re.IGNORECASE)
_WEB_ADDRESS: Final = re.compile(r"https?://[^/\s]", re.IGNORECASE)
_SIMILARITY: Final = 0.75

_RULES: Final = {
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "of the form {pattern}",
}


def listed(value: str) -> list[str]:
    """The parts of a setting that holds several, separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()]


def is_service_link(value: object) -> bool:
    """Whether Kubernetes has put the value there, for a service that is named as a setting begins."""
    return isinstance(value, str) and bool(_SERVICE_LINK.match(value))


def problem_of(error: ValidationError, value: object, *, is_secret: bool) -> str:
    """What is wrong with a value, to follow the name of its setting."""
    first = error.errors()[0]
    rule = _RULES.get(first["type"])
    if rule is None:
        return str(first.get("ctx", {}).get("error") or first["msg"])
    got = "; its value is not shown" if is_secret else f", got {value!r}"
    return f"must be {rule.format(**first.get('ctx', {}))}{got}"


def digests(value: str) -> str:
    """SHA-256 digests, in lower case.

    Raises:
        ValueError: Something else, or nothing at all, is listed; no part of it is repeated.
    """
    found = [part.lower() for part in listed(value)]
    if not found:
        raise ValueError("must list digests of keys; remove the variable to serve without keys")
    for number, part in enumerate(found, 1):
        if not _DIGEST.fullmatch(part):
            raise ValueError(
                "must list SHA-256 digests of keys, of 64 hexadecimal digits each, as `onesheet key` prints them; "
                f"entry {number} is something else ({len(part)} characters, not shown)"
            )
    return ",".join(found)


def origins(value: str) -> str:
    """Origins of web pages, as browsers send them.

    Raises:
        ValueError: One is none, so that it would never match.
    """
    return _each(value, _origin)


def proxies(value: str) -> str:
    """Addresses and networks.

    Raises:
        ValueError: One is neither, so that it would never match.
    """
    return _each(value, _proxy)


def web_address(value: str) -> str:
    """An address that can be sent to.

    Raises:
        ValueError: It is none; it is not repeated, as it may hold a token.
    """
    if not _WEB_ADDRESS.match(value):
        raise ValueError("must be an http:// or https:// address; its value is not shown")
    return value


def database_url(value: str) -> str:
    """SQLAlchemy's name of PostgreSQL in place of the short one that hosting providers use."""
    return re.sub(r"^postgres(?=(\+\w+)?://)", "postgresql", value.strip())


def misspelt_variables(settings: Collection[str]) -> list[str]:
    """What to tell of variables, of the environment or the `.env` file, that are nearly named as settings are."""
    in_file = dotenv_values(ENV_FILE, encoding=ENV_ENCODING) if Path(ENV_FILE).is_file() else {}
    known = {name.upper() for name in settings}
    found = []
    for variable, value in sorted({**in_file, **os.environ}.items()):
        prefix, name = variable[: len(PREFIX)].upper(), variable[len(PREFIX) :].upper()
        if prefix != PREFIX or name in known or is_service_link(value) or _SERVICE_LINK_NAME.search(f"_{name}"):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=_SIMILARITY)
        found += [f"{variable} is no setting and is ignored; did you mean {PREFIX}{each}?" for each in near]
    return found


def _each(value: str, check: Callable[[str], str]) -> str:
    return ",".join(check(part) for part in listed(value))


def _origin(text: str) -> str:
    origin = text.rstrip("/")
    if origin in {"*", "null"} or _ORIGIN.fullmatch(origin):
        return origin
    hint = "; a * within an origin is not supported" if "*" in text else ""
    raise ValueError(f"must list origins such as https://example.com, without a path, got {text!r}{hint}")


def _proxy(text: str) -> str:
    try:
        if text != "*":
            _ = ip_network(text) if "/" in text else ip_address(text)
    except ValueError as error:
        raise ValueError(
            f"must list addresses or networks such as 10.0.0.1, 10.0.0.0/8 or *, got {text!r}: {error}"
        ) from error
    return text
