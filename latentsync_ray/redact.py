"""Addresses as they may be shown and stored: without the secrets in signed URLs, logins and tokens.

Whatever prints, logs or records a URI passes it through here; only the pipeline itself handles the real one. Of a query, the
parameters known to be harmless are kept and all others go: services keep inventing names for signatures. The path is kept,
because it identifies the object, and a secret in it looks like any other name. Knows no storage.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from urllib.parse import quote, unquote

__all__ = ["hide", "identity", "is_whole", "presentable", "shown", "text", "traceback_of"]

_GONE = "***"
_LONGEST = 4096
"""Characters of a URI that are shown. Keys of object stores have 1024 bytes, three times as many when percent-encoded."""
_SHORTEST_SECRET = 6
"""Characters from which on a piece of a URI is looked for in a message: shorter ones occur in ordinary words."""
_HARMLESS = {"alt", "export", "file", "format", "generation", "id", "path", "snapshot", "v", "version", "versionid"}
"""Query parameters, in lower case, that say which object is meant, or which version of it."""
_HARMLESS_VALUE = re.compile(r"[\w.:/~+-]{1,200}")
"""Nothing that could be an address with a query or a login of its own."""
_SIGNING = re.compile(
    r"^(x-(amz|goog|oss|cos)-.*|sig|sign|signature|expires?|exp|policy|key|key-pair-id|hdn[et]a|hmac|jwt|pass|pwd)$"
    r"|token|secret|passw|auth|credential|session|access_?(key|id)|api_?key"
)
"""Query parameters, in lower case, that change when the address of the same object is signed again."""
_SIGNING_AZURE = re.compile(r"^(s[eiprstv]|sip|spr|srt|ss|sk\w+|sdd|saoid|suoid|scid|rsc[cdelt])$")
"""The same in Azure's shared access signatures: too short to mean anything without a ``sig`` beside them."""
_CONTAINERS = {"abfs", "abfss", "wasb", "wasbs"}
"""Protocols of Azure, in which ``name@`` before the host is the container and no login."""
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}"
_LINK = re.compile(rf"::(?={_SCHEME}:[/:])")
"""What joins a chain such as ``zip://a.mp4::https://host/b.zip``, and no part of an IPv6 address."""
_QUOTED = re.compile(
    rf"(?P<data>\bdata:[^\s,\"'<>]{{0,100}},[^\s\"'<>]*)"
    # A quotation mark ends an address unless more of it follows; so does the next address, as in a line of CSV.
    rf"|(?P<uri>\b{_SCHEME}://(?:(?!\b{_SCHEME}://)(?:[^\s<>\"'`]|'(?=[\w%/?&=.@~-])))*)"
    r"|(?P<query>\?(?=[\w.~%-]+=)[^\s<>\"'`]*)"
    r"|\b(?P<name>X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId|GoogleAccessId|Signature|Key-Pair-Id|sig|access_token|api_?key"
    r"|passw(?:or)?d)=[^\s&<>\"'`]+",
    re.IGNORECASE,
)
"""Addresses in a message, and what is left of them where a library quotes only the query."""

_hidden: set[str] = set()
"""Secrets of this process that stand in no address."""


def hide(secret: str) -> None:
    """Keep ``secret``, and what it is made of, out of all that ``text`` gives from now on; short ones are left.

    It is found where it is percent-encoded, and its long words (a token after ``Bearer``, lines of a key) by themselves.
    """
    pieces = {secret, *_secrets(secret), *(word for word in secret.split() if len(word) > len("-----BEGIN"))}
    _hidden.update(form for each in pieces if len(each) >= _SHORTEST_SECRET for form in (each, quote(each, safe="")))


def shown(uri: str) -> str:
    """``uri`` with ``***`` in place of its login, its fragment and all query parameters that are not known to be harmless.

    Of ``data:`` URIs the content is left out. Local paths stay as they are: in them ``?``, ``#`` and ``@`` belong to names.
    """
    return _shortened("::".join(_cleared(each, _is_harmless) for each in _LINK.split(uri)))


def identity(uri: str) -> str:
    """``uri`` without what changes when the address of the same object is signed again: to be hashed, never shown."""
    if uri.startswith("data:"):
        return uri
    kept = _is_not_signing_azure if re.search(r"[?&]sig=", uri) else _is_not_signing
    return "::".join(_cleared(each, kept) for each in _LINK.split(uri))


def is_whole(uri: str) -> bool:
    """Whether nothing was left out of an address that ``shown`` gave: whether it can be opened."""
    if not re.match(rf"data:|(?!(?:file|local):){_SCHEME}:[/:]", uri):
        return True
    return not (uri.startswith("data:") or _GONE in uri or uri.endswith(" characters)"))


def text(message: str, *uris: str) -> str:
    """``message`` with the addresses that it quotes as ``shown`` gives them, and without what ``hide`` was told.

    ``uris`` are those it is known to be about: their secrets are found even where it quotes pieces of them.
    """
    for uri in uris:
        message = message.replace(uri, shown(uri))
        for secret in _secrets(uri):
            message = message.replace(secret, _GONE)
    for secret in sorted(_hidden, key=len, reverse=True):
        message = message.replace(secret, _GONE)
    return _QUOTED.sub(_redacted, message)


def traceback_of(error: BaseException) -> str:
    """The traceback of ``error`` as Python prints it, with causes and notes, fit to be logged and stored."""
    return text("".join(traceback.format_exception(error)))


def presentable(cause: BaseException, uri: str) -> BaseException | None:
    """``cause``, to be raised from; None when its traceback shows a secret of ``uri``: libraries quote what they were given."""
    trace = "".join(traceback.format_exception(cause))
    return cause if text(trace, uri) == trace else None


def _redacted(match: re.Match[str]) -> str:
    if match["name"]:
        return f"{match['name']}={_GONE}"
    if match["data"]:
        return match[0] if match[0].endswith(",...") else _shortened(match[0])
    found = re.sub(r"[.,;:!?)\]}]+$", "", match[0])  # closes the sentence around the address
    return (shown(found) if match["uri"] else _query(found, _is_harmless)) + match[0][len(found) :]


def _secrets(uri: str) -> Iterator[str]:
    """Pieces of ``uri`` that ``shown`` drops, as they are and percent-decoded; names of parameters are none."""
    if (clear := shown(uri)) == uri or uri.startswith("data:"):
        return
    for piece in re.finditer(r"[^/?#&;=@:]+", uri):
        is_name = uri[piece.start() - 1] in "?&;" and uri[piece.end() : piece.end() + 1] == "="
        if not is_name and len(piece[0]) >= _SHORTEST_SECRET and piece[0] not in clear:
            yield from {piece[0], unquote(piece[0])}


def _shortened(uri: str) -> str:
    if not uri.startswith("data:"):
        return uri if len(uri) <= _LONGEST else f"{uri[:_LONGEST]}... ({len(uri)} characters)"
    if re.search(r",\.\.\. \(\d+ characters\)$", uri):
        return uri
    kind, comma, _ = uri.partition(",")
    return f"{kind[:100] if comma else 'data:'},... ({len(uri)} characters)"


def _cleared(uri: str, keep: Callable[[str], bool]) -> str:
    """One URI without login and fragment, and with those parameters (``name=value``) that are to be kept."""
    scheme, separator, rest = uri.partition("://")
    kind = scheme.lower()
    if not separator or kind in ("file", "local") or not re.fullmatch(_SCHEME, scheme):
        return uri
    rest = _without_login(kind, rest)
    # Object stores have keys with ? and # in them; there it takes a parameter to make it a query.
    ends = re.search(r"[?#]" if kind in ("http", "https") else r"[?#](?=[\w.~%-]+=)", rest)
    path, tail = (rest[: ends.start()], rest[ends.start() :]) if ends else (rest, "")
    if ";" in path:
        path = re.sub(r";([\w.~%-]+=[^/;]*)", lambda match: match[0] if keep(match[1]) else f";{_GONE}", path)
    if "://" in path:  # an address in the path of a proxy's
        path = re.sub(rf"({_SCHEME}://)[^/@]*@", rf"\1{_GONE}@", path)
    query, mark, fragment = tail.partition("#")
    return f"{scheme}://{path}{_query(query, keep)}{mark}{_GONE if fragment else ''}"


def _without_login(kind: str, rest: str) -> str:
    """What follows ``://``, without name and password before the host."""
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, _ = host.rpartition("@")
    if at:
        return rest if kind in _CONTAINERS and ":" not in login else f"{_GONE}@{rest[len(login) + 1 :]}"
    if re.search(r":(?!\d*$)[^\]]*$", host):  # no port follows: it is a password that holds a slash, a ? or a #
        return f"{_GONE}@{rest.rpartition('@')[2]}" if "@" in rest else _GONE
    return rest


def _query(query: str, keep: Callable[[str], bool]) -> str:
    """``?name=value&...`` with the parameters to keep, and ``***`` for all others."""
    parameters = re.split("[&;]", query[1:])
    kept = [each for each in parameters if keep(each)]
    return query if len(kept) == len(parameters) or len(query) < 2 else "?" + "&".join([*kept, _GONE])


def _is_harmless(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.lower() in _HARMLESS and _HARMLESS_VALUE.fullmatch(value) is not None


def _is_not_signing(parameter: str) -> bool:
    return not _SIGNING.search(unquote(parameter.partition("=")[0]).lower())


def _is_not_signing_azure(parameter: str) -> bool:
    return _is_not_signing(parameter) and not _SIGNING_AZURE.search(parameter.partition("=")[0].lower())
