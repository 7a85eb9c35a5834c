"""Files wherever they are: local paths and every URI that fsspec knows. Nobody else imports fsspec.

Errors of all filesystems are told as three of ours: InputNotFound (missing, denied, not a usable URI), StorageUnavailable (kept
failing after bounded retries, or a disk is full) and, when writing is refused for good, ConfigError. No message holds a secret
of a URI (``redact``). Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import split_protocol, url_to_fs
from tenacity import RetryError

from latentsync_ray import redact
from latentsync_ray.cache import cached, held
from latentsync_ray.errors import ConfigError, InputNotFound, StorageUnavailable
from latentsync_ray.extras import install_command
from latentsync_ray.layout import WORK, join
from latentsync_ray.retry import attempt, attempt_once, told_as

__all__ = [
    "check_writable",
    "delete",
    "download",
    "exists",
    "fetch",
    "fetch_version",
    "fetched",
    "find_files",
    "is_remote",
    "list_files",
    "publish",
    "read_bytes",
    "seen",
    "version",
    "versions_in",
    "write_bytes",
]

_T = TypeVar("_T")

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
"""Protocol -> the extra of this package that brings its filesystem."""
_VERSION_KEYS = ("md5Hash", "Content-MD5", "ETag", "etag", "generation", "mtime", "LastModified", "Last-Modified")
_VERSION_KEYS += ("updated", "created")
"""What filesystems call the facts that change when a file does; first those that change with nothing but its content."""
_LONGEST_VERSION = 64
_DELETE_THREADS = 16
_PRUNED = 20
"""Times in a row that a folder may vanish under a writer: more than neighbours manage."""


def is_remote(uri: str) -> bool:
    """Whether reading ``uri`` needs a download; false for local paths and ``file://``."""
    return split_protocol(uri)[0] not in (None, "file", "local")


def fetch(uri: str) -> Path:
    """A local file with the content of ``uri``, to be opened soon and only read.

    Local files are used where they are. Others (``data:`` included) are downloaded once per machine into the cache, under a
    name made from the URI and the source's size and version, so that a changed source is downloaded again.
    Raises InputNotFound or StorageUnavailable.
    """
    return fetch_version(uri)[0]


def fetch_version(uri: str) -> tuple[Path, str]:
    """As ``fetch``, and which version of the file it is; see ``version``."""
    fs, path = _at(uri)
    inline = uri.startswith("data:")
    facts = _facts(uri, fs, path)
    if facts.get("type") == "directory":
        raise InputNotFound(f"{redact.shown(uri)} is a folder; a file is needed")
    if not is_remote(uri):
        if not os.access(path, os.R_OK):
            raise InputNotFound(f"{redact.shown(uri)} may not be read by this user; change its permissions")
        return Path(path), _version(facts)

    def bring(draft: Path) -> None:
        if inline:
            draft.write_bytes(fs.cat_file(path))
        else:
            _download(fs, path, draft, facts.get("size"))

    version = _version(facts)
    return cached(_name(uri, version), lambda draft: attempt(uri, bring, draft, disk=str(draft.parent))), version


def version(uri: str) -> str | None:
    """Size and checksum, generation or time of change of a file, as one word: another one when the file is another.

    None when it is missing, or storage does not say. Raises StorageUnavailable.
    """
    if uri.startswith("/"):
        with suppress(OSError):
            facts = Path(uri).stat()  # as fsspec asks, in a fraction of the time: a manifest may have millions
            return _version({"size": facts.st_size, "mtime": facts.st_mtime})
        return None
    try:
        fs, path = _at(uri)
        return _version(_facts(uri, fs, path))
    except InputNotFound:
        return None


def versions_in(folder: str) -> dict[str, str]:
    """URI -> ``version`` of all files directly in ``folder``, by one listing. Raises as ``exists`` does."""
    fs, path = _at(folder)
    entries = attempt(folder, _unless_missing, partial(fs.ls, detail=True), path) or []
    return {join(folder, each["name"].rsplit("/", 1)[-1]): _version(each) for each in entries if each["type"] == "file"}


def fetched(uri: str, version: str) -> Path | None:
    """That version of a remote file, when it is on this machine."""
    return held(_name(uri, version))


def download(uri: str, target: Path) -> Path:
    """A local file with the content of ``uri`` that nobody else will want: ``target``, or the file itself when it is local.

    Raises InputNotFound or StorageUnavailable.
    """
    fs, path = _at(uri)
    size = attempt(uri, fs.info, path).get("size")
    if not is_remote(uri):
        return Path(path)
    attempt(uri, _download, fs, path, target, size, disk=str(target.parent))
    return target


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises InputNotFound (denied) or StorageUnavailable when that cannot be found out."""
    fs, path = _at(uri)
    return attempt(uri, _unless_missing, fs.info, path) is not None


def seen(uri: str) -> bool | None:
    """Whether a file is there and may be read, by one try; None when storage did not say."""
    if uri.startswith("data:"):
        return True
    try:
        fs, path = _at(uri)
        if not is_remote(uri):
            return os.access(path, os.R_OK)
        return attempt(uri, _unless_missing, fs.info, path, once=True) is not None
    except InputNotFound:
        return False
    except StorageUnavailable:
        return None


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises InputNotFound or StorageUnavailable."""
    fs, path = _at(uri)
    return attempt(uri, fs.cat_file, path)


def list_files(folder: str) -> list[str]:
    """URIs of the files directly in ``folder``, sorted; none when it does not exist. Raises as ``exists`` does."""
    fs, path = _at(folder)
    entries = attempt(folder, _unless_missing, partial(fs.ls, detail=True), path) or []
    own = path.strip("/")  # a listed file lists itself, and object stores may hold a marker named like the folder
    files = [entry["name"] for entry in entries if entry["type"] == "file" and entry["name"].strip("/") != own]
    return sorted(join(folder, name.rsplit("/", 1)[-1]) for name in files)


def find_files(folder: str) -> list[str]:
    """URIs of all files in ``folder`` and below, sorted; none when it does not exist. Raises as ``exists`` does."""
    fs, path = _at(folder)
    names = attempt(folder, _unless_missing, fs.find, path) or []
    return sorted(join(folder, name.strip("/").removeprefix(path.strip("/")).strip("/")) for name in names)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one step, over an existing one: nobody ever sees half of it.

    Raises ConfigError when writing is refused, StorageUnavailable when it keeps failing.
    """
    fs, path = _at(uri)

    def write() -> None:
        if is_remote(uri):
            fs.pipe_file(path, data)  # one PUT
            return
        with _drafted(fs, path) as draft:
            fs.pipe_file(draft, data)
            Path(draft).replace(path)

    attempt(uri, write if is_remote(uri) else partial(_unpruned, write), writing=True)


def check_writable(uri: str) -> None:
    """See whether a file can be written at ``uri``, by writing one beside it. Raises ConfigError or StorageUnavailable."""
    probe = f"{uri}.{uuid.uuid4().hex[:8]}.tmp"
    write_bytes(probe, b"")
    delete([probe])


def publish(local: Path, uri: str, *, drafts: str | None = None) -> None:
    """Copy a finished local file to ``uri``, over an existing one: under a draft name first, then checked, then moved.

    Drafts lie in the folder ``drafts``, which has to be on the same filesystem, or else beside ``uri`` under a hidden name.

    Raises ConfigError when writing is refused, StorageUnavailable when it keeps failing.
    """
    fs, path = _at(uri)

    def copy() -> None:
        with _drafted(fs, path, _at(drafts)[1] if drafts else None) as draft:
            fs.put_file(str(local), draft)
            fs.invalidate_cache()
            _check_size(fs.info(draft)["size"], local.stat().st_size)
            if is_remote(uri):
                fs.cp_file(draft, path)  # not ``mv``, which expands * and [ ] in names
                fs.rm_file(draft)
            else:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(draft).replace(path)
                _prune(Path(draft).parent)

    attempt(uri, copy if is_remote(uri) else partial(_unpruned, copy), writing=True)


def delete(uris: Iterable[str]) -> None:
    """Remove files; those that are missing are fine. Local folders below a ``_work`` folder go when they become empty."""

    def remove(uri: str) -> None:
        fs, path = _at(uri)
        attempt(uri, _unless_missing, fs.rm_file, path, writing=True)
        if not is_remote(uri):
            _prune(Path(path).parent)

    with ThreadPoolExecutor(_DELETE_THREADS) as pool:  # one request a file: bulk requests expand * and [ ] in names
        for _ in pool.map(remove, uris):
            pass


def _facts(uri: str, fs: Any, path: str) -> dict[str, Any]:
    """What storage says about a file; of ``data:`` the URI is the content."""
    if not uri.startswith("data:"):
        return attempt(uri, fs.info, path)
    return {"size": len(uri), "etag": hashlib.sha256(uri.encode()).hexdigest()[:32]}


def _version(facts: Mapping[str, Any]) -> str:
    known = next((facts[key] for key in _VERSION_KEYS if facts.get(key) is not None), "")
    known = known.timestamp() if isinstance(known, datetime) else known
    word = re.sub(r'^W/|["\s]', "", str(known))
    if len(word) > _LONGEST_VERSION:
        word = hashlib.sha256(word.encode()).hexdigest()[:32]
    return f"{facts.get('size')}-{word}"


def _name(uri: str, version: str) -> str:
    """What a download is called in the cache."""
    suffix = re.search(r"\.[A-Za-z0-9]{1,8}$", "" if uri.startswith("data:") else re.sub(r"[?#].*", "", uri))
    return hashlib.sha256(json.dumps([uri, version]).encode()).hexdigest()[:32] + (suffix[0] if suffix else "")


def _download(fs: Any, path: str, target: Path, size: int | None) -> None:
    fs.get_file(path, str(target))  # streams in blocks of 4 MB or more on all filesystems we know
    _check_size(target.stat().st_size, size)


def _unless_missing(action: Callable[[str], _T], path: str) -> _T | None:
    try:
        return action(path)
    except FileNotFoundError as error:
        if told_as(error) is StorageUnavailable:
            raise
        return None


def _unpruned(write: Callable[[], None]) -> None:
    """Make a folder and write there, again when a neighbour prunes the folder in between, while it is empty."""
    for _ in range(_PRUNED):
        with suppress(FileNotFoundError, FileExistsError):  # the latter when it goes while mkdir asks what it is
            return write()
    return write()


def _prune(folder: Path) -> None:
    """What an object store does by having no folders."""
    try:
        while WORK in folder.parts[:-1]:
            folder.rmdir()
            folder = folder.parent
    except OSError:
        return  # not empty, or somebody else removed it


def _at(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI, and its path there."""
    if not is_remote(uri):
        fs = fsspec.filesystem("file", auto_mkdir=True)
        return fs, fs._strip_protocol(uri)
    protocol, options = split_protocol(uri)[0], {}
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        # The default ends every download after 5 minutes; a long one is fine as long as bytes arrive.
        options = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}}
    try:
        fs, path = url_to_fs(uri, **options)
    except ImportError as error:
        extra = _EXTRAS.get(str(protocol))
        remedy = install_command(extra) if extra else str(error)
        raise ConfigError(f"{redact.shown(uri)} needs a filesystem that is not installed: {remedy}") from error
    except ValueError as error:
        problem = redact.text(str(error), uri)
        raise InputNotFound(f"{redact.shown(uri)} is not a usable URI: {problem}") from redact.presentable(error, uri)
    fs.invalidate_cache()  # other workers write here: what was listed a moment ago may be outdated
    return fs, path


@contextmanager
def _drafted(fs: Any, path: str, folder: str | None = None) -> Iterator[str]:
    """A name to write ``path`` under first; when that breaks off, whatever the reason, nothing stays there."""
    own, _, name = path.rpartition("/")
    draft = f"{folder or own}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
    with ExitStack() as undo:
        undo.callback(_removed, fs, draft)
        yield draft
        undo.pop_all()


def _removed(fs: Any, path: str) -> None:
    with suppress(RetryError):  # nothing was written yet, or storage cannot be reached
        attempt_once(fs.rm_file, path)


def _check_size(got: int, expected: int | None) -> None:
    if expected is not None and got != expected:
        raise ConnectionError(f"{got} of {expected} bytes arrived")
