"""Where history's bytes lie: one URL, whatever pyarrow can open (``file:///...`` by default, ``s3://bucket/...``).

An object is written once under its final name and never changed. On a local disk it is written beside its place,
synced and renamed, so a name that exists is a whole file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
from pyarrow import fs

from unisono.base.errors import DamagedRecord, InvalidInput, Unavailable

# Bytes read at once when an object is hashed or copied.
_CHUNK: Final = 1 << 20


class HashingSink:
    """A file to write to that hashes and counts what passes."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self.n_bytes = 0
        self.closed = False

    def write(self, block: Any) -> int:
        """Pass a block on."""
        view = memoryview(block)
        self._digest.update(view)
        self.n_bytes += view.nbytes
        self._target.write(view)
        return view.nbytes

    def flush(self) -> None:
        """Nothing to do: the store syncs when the object is complete."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return False: Parquet is written front to back."""
        return False

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.n_bytes

    def close(self) -> None:
        """Take no more; the store closes the target."""
        self.closed = True

    @property
    def sha256(self) -> str:
        """Digest of all bytes so far, in hex."""
        return self._digest.hexdigest()


class ObjectStore:
    """The objects under one root of a pyarrow file system."""

    def __init__(self, file_system: fs.FileSystem, root: str) -> None:
        self._fs = file_system
        self._root = root.rstrip("/")
        self._is_local = isinstance(file_system, fs.LocalFileSystem)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[HashingSink]:
        """Yield a sink; the object exists, whole and durable, once the block is left without an exception."""
        with _translated(path):
            if self._is_local:
                with self._writing_locally(self._place(path)) as sink:
                    yield sink
                return
            with self._fs.open_output_stream(self._place(path)) as target:
                sink = HashingSink(target)
                yield sink

    @contextlib.contextmanager
    def _writing_locally(self, place: str) -> Iterator[HashingSink]:
        final = Path(place)
        final.parent.mkdir(parents=True, exist_ok=True)
        beside = final.with_name(f".{final.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as target:
                sink = HashingSink(target)
                yield sink
                target.flush()
                os.fsync(target.fileno())
            beside.replace(final)
        finally:
            beside.unlink(missing_ok=True)
        # A new day brings new folders: the name is durable only when each folder on the way is.
        for folder in (final.parent, *list(final.parent.parents)[:3]):
            _sync_folder(folder)

    def open(self, path: str) -> pa.NativeFile:
        """Return the object for reading at random; raises DamagedRecord when it is gone."""
        with _translated(path):
            return self._fs.open_input_file(self._place(path))

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the object's bytes in order."""
        with self.open(path) as source:
            while block := source.read(_CHUNK):
                yield block

    def digest(self, path: str) -> tuple[str, int]:
        """Return (sha256 in hex, size) of the object as it lies there now."""
        digest, n_bytes = hashlib.sha256(), 0
        for block in self.blocks(path):
            digest.update(block)
            n_bytes += len(block)
        return digest.hexdigest(), n_bytes

    def copy_in(self, path: str, source: BinaryIO) -> tuple[str, int]:
        """Write the object from an open file; return (sha256 in hex, size)."""
        with self.writing(path) as sink:
            while block := source.read(_CHUNK):
                sink.write(block)
        return sink.sha256, sink.n_bytes

    def delete(self, path: str) -> None:
        """Remove the object; one that is gone already is fine."""
        with contextlib.suppress(FileNotFoundError), _translated(path, missing_is_damage=False):
            self._fs.delete_file(self._place(path))

    def paths(self) -> list[tuple[str, int]]:
        """Return (path, changed_ns) of every object, half-written ones included."""
        with _translated(self._root):
            found = self._fs.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
        skip = len(self._root) + 1
        return [(entry.path[skip:], entry.mtime_ns or 0) for entry in found if entry.type == fs.FileType.File]

    def _place(self, path: str) -> str:
        assert not {"", ".."} & set(path.split("/")), "an object's path stays under its root"
        return f"{self._root}/{path}"


def open_store(history_url: str) -> ObjectStore:
    """Return the store at a URL or an absolute folder; a local folder is made if it is missing."""
    try:
        file_system, root = fs.FileSystem.from_uri(history_url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as wrong:
        rule = f"must be file:///folder, s3://bucket/... or an absolute folder: {wrong}"
        raise InvalidInput("history_url", history_url, rule) from wrong
    if isinstance(file_system, fs.LocalFileSystem):
        with _translated(root):
            Path(root).mkdir(parents=True, exist_ok=True)
    return ObjectStore(file_system, root)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _translated(path: str, *, missing_is_damage: bool = True) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as gone:
        if not missing_is_damage:
            raise
        raise DamagedRecord(f"history file {path}", "is missing") from gone
    except OSError as away:
        raise Unavailable("the history store", f"{path}: {away}") from away
