"""Which filesystem of fsspec a URI has, and with which options. Nobody else imports fsspec.

Options belong to the process (``configure``). Knows nothing of files.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.core import split_protocol, url_to_fs
from fsspec.registry import get_filesystem_class

from latentsync_ray import redact
from latentsync_ray.errors import ConfigError, InputNotFound
from latentsync_ray.extras import install_command
from latentsync_ray.storage_options import StorageOptions, one_name, revealed, secrets

__all__ = ["configure", "configured", "forget", "is_remote", "opened"]

_EXTRAS = {"gs": "gcs", "s3": "s3"}
"""Protocol -> the extra of this package that brings its filesystem."""
_UNTOLD = {
    "gs": set[str](),
    "s3": {"profile"},
    "http": {"allow_redirects", "auth", "cookies", "headers", "max_redirects", "proxy", "proxy_auth", "ssl"},
}
"""Protocols whose filesystems take any option and pass by what they do not know, with the ones that no signature tells."""
_OF_ALL = {"listings_expiry_time", "max_paths", "skip_instance_cache", "use_listings_cache"}
"""The same of all filesystems."""
_ZONAL = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
"""The environment variable by which gcsfs is told to know zonal buckets."""
_URL = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)
"""An address that needs no more encoding."""

_options: dict[str, dict[str, Any]] = {}


def configure(options: StorageOptions) -> None:
    """Use these options for all URIs of this process, in place of those that it had."""
    global _options
    for secret in secrets(options):
        redact.hide(secret)
    _options = {one_name(protocol): values for protocol, values in revealed(options).items()}


@contextmanager
def configured(options: StorageOptions) -> Iterator[None]:
    """Meanwhile, these options count in this process, in all its threads.

    Raises ConfigError for a protocol that fsspec does not know, or an option that the protocol's filesystem does not.
    """
    for protocol, values in options.items():
        _check_options(protocol, values)
    before = _options
    configure(options)
    try:
        yield
    finally:
        configure(before)


def is_remote(uri: str) -> bool:
    """Whether reading ``uri`` needs a download; false for local paths and ``file://``."""
    return split_protocol(uri)[0] not in (None, "file", "local")


def opened(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI, and its path there."""
    if not is_remote(uri):
        fs = fsspec.filesystem("file", auto_mkdir=True)
        return fs, fs._strip_protocol(uri)
    protocol = one_name(str(split_protocol(uri)[0]))
    try:
        fs, path = _made(uri, protocol)
    except ImportError as error:
        raise _not_installed(redact.shown(uri), protocol, error) from error
    except (ValueError, TypeError) as error:
        problem = redact.text(str(error), uri)
        if protocol in _EXTRAS or _options.get(protocol):
            told: Exception = ConfigError(f"{redact.shown(uri)}: {problem}; see storage_options.{protocol} and the environment")
        elif isinstance(error, TypeError):
            raise
        else:
            told = InputNotFound(f"{redact.shown(uri)} is not a usable URI: {problem}")
        raise told from redact.presentable(error, uri)
    fs.invalidate_cache()  # other workers write here: what was listed a moment ago may be outdated
    return fs, path


def _made(uri: str, protocol: str) -> tuple[Any, str]:
    chain = [split_protocol(each)[0] or "" for each in uri.split("::")]  # as they are spelled
    options = {each: _options.get(one_name(each), {}) for each in chain if each}
    if protocol == "http":
        from aiohttp import ClientTimeout

        own = options[chain[0]]
        # The default ends every download after 5 minutes; a long one is fine as long as bytes arrive. Addresses go out as they
        # are: a signature may be about each character, also where a redirect leads.
        client = {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60), "requote_redirect_url": False}
        client |= own.get("client_kwargs", {})
        options[chain[0]] = {"encoded": _URL.fullmatch(uri) is not None, **own, "client_kwargs": client}
    if protocol == "gs" and len(chain) == 1:
        kind = _kind(protocol)
        fs = kind(**{**kind._get_kwargs_from_urls(uri), **options[chain[0]]})
        return fs, fs._strip_protocol(uri)
    return url_to_fs(uri, **options)


def _kind(protocol: str) -> type[Any]:
    """The class of a protocol's filesystem. Raises ValueError or ImportError when there is none.

    Since 2026, gcsfs has one that asks by gRPC which kind of bucket it has, which only zonal ones need: before every operation
    until there is an answer, for which it waits 60 s. An emulator gives none, nor does a proxy.
    """
    if protocol == "gs":
        log = logging.getLogger("gcsfs")  # it prints a traceback of what it raises, unless somebody collects logs
        log.handlers = log.handlers or [logging.NullHandler()]
    if protocol == "gs" and os.environ.get(_ZONAL, "").lower() not in ("true", "1"):
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem
    return get_filesystem_class(protocol)


def forget(uri: str) -> None:
    """Have the next filesystem for ``uri`` made anew: instances are kept, and their logins with them."""
    for protocol in (split_protocol(each)[0] for each in uri.split("::")):
        if protocol:
            _kind(one_name(protocol)).clear_instance_cache()


def _check_options(protocol: str, options: Mapping[str, Any]) -> None:
    key, name = f"storage_options.{protocol}", one_name(protocol)
    if name in ("file", "local", "data"):
        raise ConfigError(f"{key}: there are no options for files of this machine")
    try:
        kind = _kind(name)
    except ImportError as error:
        raise _not_installed(key, name, error) from error
    except ValueError as error:
        raise ConfigError(f"{key}: fsspec knows no such protocol; name gs, s3, http or another of its own") from error
    if name not in _UNTOLD:
        return
    known = _OF_ALL | _UNTOLD[name]
    for each in kind.__mro__:
        arguments = inspect.signature(each.__init__).parameters.values()
        known |= {argument.name for argument in arguments if argument.kind is argument.POSITIONAL_OR_KEYWORD}
    known -= {"self", "asynchronous", "loop"}
    if unknown := sorted(set(options) - known):
        raise ConfigError(f"{key}.{unknown[0]}: there is no such option; known here: {', '.join(sorted(known))}")


def _not_installed(what: str, protocol: str, error: ImportError) -> ConfigError:
    extra = _EXTRAS.get(protocol)
    return ConfigError(f"{what} needs a filesystem that is not installed: {install_command(extra) if extra else error}")
