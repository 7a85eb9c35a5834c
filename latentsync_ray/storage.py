"""Files wherever they are: local paths and every URI that fsspec knows.

Errors of all filesystems are told as three of ours: InputNotFound (missing, denied, not a usable URI), StorageUnavailable (kept
failing after bounded retries, or a disk is full) and, when writing is refused for good, ConfigError. No message holds a secret
of a URI or of an option (``redact``). Which filesystem a URI has is ``filesystems``' affair. Knows nothing of what files hold.
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
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tenacity import RetryError

from latentsync_ray import local_files, redact
from latentsync_ray.cache import cached, held
from latentsync_ray.errors import ConfigError, InputNotFound, StorageUnavailable
from latentsync_ray.filesystems import forget, is_remote, opened
from latentsync_ray.layout import WORK, drafts_of, join
from latentsync_ray.retry import attempt, attempt_once, told_as

__all__ = [
    "check_writable",
    "delete",
    "download",
    "exists",
    "fetch",
    "fetch_version",
    "fetched",
    "file_sizes",
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

_VERSION_KEYS = ("md5Hash", "Content-MD5", "ETag", "etag", "generation", "mtime", "LastModified", "Last-Modified")
_VERSION_KEYS += ("updated", "created")
"""What filesystems call the facts that change when a file does; first those that change with nothing but its content."""
_LONGEST_VERSION = 64
_DELETE_THREADS, _DELETED_AT_ONCE = 16, 10_000
_PRUNED = 20
"""Times in a row that a folder may vanish under a writer: more than neighbours manage."""


def fetch(uri: str) -> Path:
    """A local file with the content of ``uri``, to be opened soon and only read.

    Local files are used where they are. Others (``data:`` included) are downloaded once per machine into the cache, under a
    name made from the URI and the source's size and version, so that a changed source is downloaded again.
    Raises InputNotFound or StorageUnavailable.
    """
    return fetch_version(uri)[0]


def fetch_version(uri: str) -> tuple[Path, str]:
    """As ``fetch``, and which version of the file it is; see ``version``."""
    inline, facts = uri.startswith("data:"), _facts(uri)
    if facts.get("type") == "directory":
        raise InputNotFound(f"{redact.shown(uri)} is a folder; a file is needed")
    if not is_remote(uri):
        path = opened(uri)[1]
        if not os.access(path, os.R_OK):
            raise InputNotFound(f"{redact.shown(uri)} may not be read by this user; change its permissions")
        return Path(path), _version(facts)

    def bring(draft: Path, fs: Any, path: str) -> None:
        if inline:
            draft.write_bytes(fs.cat_file(path))
        else:
            _download(fs, path, draft, facts.get("size"))

    version = _version(facts)
    return cached(_name(uri, version), lambda draft: _on(uri, partial(bring, draft), disk=str(draft.parent))), version


def version(uri: str) -> str | None:
    """Size and checksum, generation or time of change of a file, as one word: another one when the file is another.

    None when it is missing, or storage does not say. Raises StorageUnavailable.
    """
    if uri.startswith("/"):
        try:
            facts = Path(uri).stat()  # as fsspec asks, in a fraction of the time: a manifest may have millions
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a null character
            return None
        except OSError as error:
            raise StorageUnavailable(f"{uri} cannot be looked at: {error.strerror}") from error
        return _version({"size": facts.st_size, "mtime": facts.st_mtime})
    try:
        return _version(_facts(uri))
    except InputNotFound:
        return None


def versions_in(folder: str) -> dict[str, str]:
    """URI -> ``version`` of all files directly in ``folder``, by one listing. Raises as ``exists`` does."""
    entries = _on(folder, _unless_missing(lambda fs, path: fs.ls(path, detail=True))) or []
    return {join(folder, each["name"].rsplit("/", 1)[-1]): _version(each) for each in entries if each["type"] == "file"}


def fetched(uri: str, version: str) -> Path | None:
    """That version of a remote file, when it is on this machine."""
    return held(_name(uri, version))


def download(uri: str, target: Path) -> Path:
    """A local file with the content of ``uri`` that nobody else will want: ``target``, or the file itself when it is local.

    Raises InputNotFound or StorageUnavailable.
    """
    size = _on(uri, _info).get("size")
    if not is_remote(uri):
        return Path(opened(uri)[1])
    _on(uri, lambda fs, path: _download(fs, path, target, size), disk=str(target.parent))
    return target


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises InputNotFound (denied) or StorageUnavailable when that cannot be found out."""
    return _on(uri, _unless_missing(_info)) is not None


def seen(uri: str) -> bool | None:
    """Whether a file is there and may be read, by one try; None when storage did not say."""
    if uri.startswith("data:"):
        return True
    try:
        if not is_remote(uri):
            return os.access(opened(uri)[1], os.R_OK)
        return _on(uri, _unless_missing(_info), once=True) is not None
    except (InputNotFound, ValueError):  # the latter of a null character
        return False
    except (StorageUnavailable, ConfigError):
        return None


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises InputNotFound or StorageUnavailable."""
    return _on(uri, lambda fs, path: fs.cat_file(path))


def list_files(folder: str) -> list[str]:
    """URIs of the files directly in ``folder``, sorted; none when it does not exist. Raises as ``exists`` does."""
    entries = _on(folder, _unless_missing(lambda fs, path: fs.ls(path, detail=True))) or []
    own = opened(folder)[1].strip("/")  # a listed file lists itself, and object stores may hold a marker named like the folder
    files = [entry["name"] for entry in entries if entry["type"] == "file" and entry["name"].strip("/") != own]
    return sorted(join(folder, name.rsplit("/", 1)[-1]) for name in files)


def find_files(folder: str) -> list[str]:
    """URIs of all files in ``folder`` and below, sorted; none when it does not exist. Raises as ``exists`` does."""
    return sorted(file_sizes(folder))


def file_sizes(folder: str) -> dict[str, int]:
    """URI -> bytes of all files in ``folder`` and below, sorted; none when it does not exist. Raises as ``exists`` does."""
    found = _on(folder, _unless_missing(_found if is_remote(folder) else lambda fs, path: local_files.found(path))) or {}
    path = opened(folder)[1].strip("/")
    return {join(folder, name.strip("/").removeprefix(path).strip("/")): found[name] for name in sorted(found)}


def write_bytes(uri: str, data: bytes, *, drafts: str | None = None) -> None:
    """Write a file in one step, over an existing one: nobody ever sees half of it.

    On a disk it lies in the folder ``drafts`` first (of what is below a ``_work`` folder, that one's), or else beside ``uri``.

    Raises ConfigError when writing is refused, StorageUnavailable when it keeps failing.
    """

    def write(fs: Any, path: str) -> None:
        if is_remote(uri):
            fs.pipe_file(path, data)  # one PUT
            return
        with _drafted(fs, path, opened(folder)[1] if folder else None) as draft:
            fs.pipe_file(draft, data)
            _move(draft, path)

    folder = drafts or drafts_of(uri)

    _on(uri, write if is_remote(uri) else partial(_unpruned, write), writing=True)


def check_writable(uri: str) -> None:
    """See whether a file can be written at ``uri``, by writing one beside it. Raises ConfigError or StorageUnavailable."""
    probe = f"{uri}.{uuid.uuid4().hex[:8]}.tmp"
    write_bytes(probe, b"")
    delete([probe])


def publish(local: Path, uri: str, *, drafts: str | None = None) -> None:
    """Copy a finished local file to ``uri``, over an existing one: under a draft name first, then checked, then moved.

    Drafts lie in the folder ``drafts``, which has to be in the same store, or else beside ``uri`` under a hidden name.

    Raises ConfigError when writing is refused, StorageUnavailable when it keeps failing.
    """

    def copy(fs: Any, path: str) -> None:
        with _drafted(fs, path, opened(drafts)[1] if drafts else None) as draft:
            fs.put_file(str(local), draft)
            fs.invalidate_cache()
            _check_size(fs.info(draft)["size"], local.stat().st_size)
            if is_remote(uri):
                fs.cp_file(draft, path)  # not ``mv``, which expands * and [ ] in names
                fs.rm_file(draft)
            else:
                _move(draft, path)

    _on(uri, copy if is_remote(uri) else partial(_unpruned, copy), writing=True)


def delete(uris: Iterable[str], *, below: str | None = None) -> None:
    """Remove files; those that are missing are fine.

    Local folders that become empty go when they lie below a ``_work`` folder, or below the folder ``below``.
    """

    def remove(uri: str) -> None:
        _on(uri, _unless_missing(lambda fs, path: fs.rm_file(path)), writing=True)
        if not is_remote(uri):
            _prune(Path(opened(uri)[1]).parent, below=below)

    waiting = iter(uris)
    with ThreadPoolExecutor(_DELETE_THREADS) as pool:  # one request a file: bulk requests expand * and [ ] in names
        while some := list(islice(waiting, _DELETED_AT_ONCE)):
            for _ in pool.map(remove, some):
                pass


def _facts(uri: str) -> dict[str, Any]:
    """What storage says about a file; of ``data:`` the URI is the content."""
    if not uri.startswith("data:"):
        return _on(uri, _info)
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
    suffix = re.search(r"\.[A-Za-z0-9]{1,12}$", "" if uri.startswith("data:") else re.sub(r"[?#].*", "", uri))
    return hashlib.sha256(json.dumps([uri, version]).encode()).hexdigest()[:32] + (suffix[0] if suffix else "")


def _download(fs: Any, path: str, target: Path, size: int | None) -> None:
    fs.get_file(path, str(target))  # streams in blocks of 4 MB or more on all filesystems we know
    _check_size(target.stat().st_size, size)


def _on(uri: str, action: Callable[[Any, str], _T], **how: Any) -> _T:
    """``action(filesystem, path)``, attempted; after an outdated login the next attempt has a filesystem that reads it anew."""
    return attempt(uri, lambda: action(*opened(uri)), renew=partial(forget, uri), **how)


def _info(fs: Any, path: str) -> dict[str, Any]:
    return fs.info(path)


def _found(fs: Any, path: str) -> dict[str, int]:
    return {name: facts.get("size", 0) for name, facts in fs.find(path, detail=True).items()}


def _unless_missing(action: Callable[[Any, str], _T]) -> Callable[[Any, str], _T | None]:
    def tried(fs: Any, path: str) -> _T | None:
        try:
            return action(fs, path)
        except FileNotFoundError as error:
            if told_as(error) is StorageUnavailable:
                raise
            return None

    return tried


def _unpruned(write: Callable[[Any, str], None], fs: Any, path: str) -> None:
    """Make a folder and write there, again when a neighbour prunes the folder in between, while it is empty."""
    for _ in range(_PRUNED):
        with suppress(FileNotFoundError, FileExistsError):  # the latter when it goes while mkdir asks what it is
            return write(fs, path)
    return write(fs, path)


def _move(draft: str, path: str) -> None:
    local_files.sync(draft)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    local_files.move(draft, path)
    _prune(Path(draft).parent)


def _prune(folder: Path, below: str | None = None) -> None:
    """What an object store does by having no folders."""
    root = Path(opened(below)[1]) if below else None
    try:
        while WORK in folder.parts[:-1] or root in folder.parents:
            folder.rmdir()
            folder = folder.parent
    except OSError:
        return  # not empty, or somebody else removed it


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
