"""Files in object stores: addresses that begin with `s3://` or `gs://`, through pyarrow.

Credentials, region and endpoint are those of the usual environment, such as `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`,
`AWS_REGION` and `AWS_ENDPOINT_URL`, or `GOOGLE_APPLICATION_CREDENTIALS`. pyarrow repeats requests that fail. It has no
conditional writes, so obstore writes what two commands may write at once.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path, PosixPath
from typing import IO, Any

from ibkd_retrieval.errors import UserError, WorkFailed, require
from ibkd_retrieval.store_errors import errors_of_libraries, no_bucket, sentence

_ADDRESS = re.compile(r"(s3|gs):/+([^/].*)", re.DOTALL)
_BUFFER = 8 << 20
"""Bytes of a file that are fetched by one request."""
_PIECE = 1 << 20


def address_of(path: str | os.PathLike[str]) -> str | None:
    """The address in an object store that a path or name is, None for others. A `Path` drops one of its slashes.

    Example:
        >>> address_of("s3://bucket/docs.jsonl"), address_of(Path("gs://bucket/docs/")), address_of("docs.jsonl")
        ('s3://bucket/docs.jsonl', 'gs://bucket/docs', None)
    """
    found = _ADDRESS.fullmatch(os.fspath(path))
    return None if found is None else f"{found[1]}://{found[2].rstrip('/')}"


class StoreFile(PosixPath):
    """A file in an object store, in place of a local path. `files.open_bytes` reads it."""

    def __str__(self) -> str:
        return address_of(super().__str__()) or super().__str__()


class Store:
    """A place in an object store: an object, or all whose names begin with its own and a slash.

    Attributes:
        address: the place, such as `s3://bucket/indexes/mine`.

    Raises:
        UserError: of every method: there is no such bucket, it may not be used, or no store answers.
        WorkFailed: of every method: the store failed.
    """

    def __init__(self, address: str) -> None:
        from pyarrow import fs

        self.address = address
        with self._named():
            self._files, self._root = fs.FileSystem.from_uri(address)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn the store's errors into sentences."""
        try:
            yield
        except errors_of_libraries() as error:
            raise sentence(self.address, error) from error

    def open(self, name: str = "") -> Any:
        """Open an object for reading anywhere in it.

        Raises:
            FileNotFoundError: it is not there, and its bucket is.
        """
        with self._named():
            if self.size(name) is None:
                raise FileNotFoundError(f"{self.address}/{name}" if name else self.address)
            return self._files.open_input_file(self._path(name))

    def size(self, name: str = "") -> int | None:
        """The bytes of an object, None if it is not there."""
        from pyarrow import fs

        with self._named():
            found = self._files.get_file_info(self._path(name))
            if found.type is fs.FileType.File:
                return int(found.size)
            bucket = self._root.partition("/")[0]
            if found.type is fs.FileType.NotFound and self._files.get_file_info(bucket).type is fs.FileType.NotFound:
                raise no_bucket(self.address)
            return None

    def state(self) -> tuple[int | None, datetime | None]:
        """The bytes of this object, and when it was written."""
        with self._named():
            found = self._files.get_file_info(self._root)
            return found.size, found.mtime

    def sizes(self, name: str) -> dict[str, int]:
        """The objects below a place, by their names after it, with their bytes."""
        return {each: int(found.size) for each, found in self._below(name).items()}

    def times(self, name: str) -> dict[str, datetime]:
        """The objects below a place, with when they were written, by the store's clock."""
        return {each: found.mtime for each, found in self._below(name).items()}

    def _below(self, name: str) -> dict[str, Any]:
        from pyarrow import fs

        with self._named():
            chosen = fs.FileSelector(self._path(name), allow_not_found=True, recursive=True)
            start = len(self._path(name)) + 1
            found = self._files.get_file_info(chosen)
            return {each.path[start:]: each for each in found if each.type is fs.FileType.File}

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object, None if it is not there."""
        try:
            with self.open(name) as file, self._named():
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def _opened_for_writing(self, name: str) -> Any:
        # By itself, pyarrow compresses what is called `.gz`.
        return self._files.open_output_stream(self._path(name), compression=None)

    def write(self, name: str, data: bytes) -> None:
        """Write a small object. It appears whole."""
        with self._named(), self._opened_for_writing(name) as file:
            file.write(data)

    @cached_property
    def _client(self) -> Any:
        """The place, for conditional writes. boto3 finds the credentials that pyarrow finds."""
        require("obstore", "An upload", "store")
        from obstore.store import GCSStore, S3Store

        bucket, _, prefix = self._root.partition("/")
        with self._named():
            if self.address.startswith("gs:"):
                return GCSStore(bucket, prefix=prefix)
            require("boto3", "An upload", "store")
            import boto3
            from obstore.auth.boto3 import Boto3CredentialProvider

            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "https://")
            if not endpoint.startswith(("http://", "https://")):
                raise UserError(f"AWS_ENDPOINT_URL is {endpoint!r}: begin it with http:// or https://.")
            session = boto3.Session()
            if session.get_credentials() is None:
                raise ValueError("no credentials were found")
            return S3Store(
                bucket,
                prefix=prefix,
                region=self._files.region,
                client_options={"allow_http": True},  # Where the endpoint says so.
                credential_provider=Boto3CredentialProvider(session),
            )

    def read_to_change(self, name: str) -> tuple[bytes | None, Any]:
        """The bytes of a small object, None if it is not there, and its state, which `change` takes."""
        client = self._client
        import obstore

        with self._named():
            try:
                found = obstore.get(client, name)
            except FileNotFoundError as error:
                if sentence(self.address, error) is not error:
                    raise
                return None, "create"
            state = {key: found.meta[key] for key in ("e_tag", "version") if found.meta[key] is not None}
            return bytes(found.bytes()), state

    def change(self, name: str, data: bytes, state: Any) -> bool:
        """Write a small object if it still has the state in which it was read. Return whether it had."""
        client = self._client
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._named(), suppress(AlreadyExistsError, PreconditionError):
            obstore.put(client, name, data, mode=state)
            return True
        return False

    def upload(self, path: Path, name: str) -> str:
        """Write a file as an object, which appears whole. Return the SHA-256 of what was written."""
        with open(path, "rb") as source, self._named(), self._opened_for_writing(name) as file:
            return _copy(source, file)

    def download(self, name: str, file: IO[bytes]) -> str:
        """Write an object into an open file. Return the SHA-256 of its bytes.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self.open(name) as source, self._named():
            return _copy(source, file)

    def delete(self, name: str) -> None:
        """Remove an object."""
        with self._named():
            self._files.delete_file(self._path(name))

    def remove(self, name: str) -> None:
        """Remove all objects below a place."""
        with self._named():
            self._files.delete_dir(self._path(name))


def _copy(source: Any, target: Any) -> str:
    digest = hashlib.sha256()
    while piece := source.read(_PIECE):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


class _Object(io.RawIOBase):
    """An object that is open for reading anywhere. Whatever is read while it changes is refused."""

    def __init__(self, path: Path) -> None:
        self._store = Store(str(path))
        try:
            self._file = self._store.open()
        except FileNotFoundError:
            raise UserError(f"There is no {path}: check the address.") from None
        self._before = self._store.state()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with self._store._named():
            count = int(self._file.readinto(buffer))
        if self._store.state() != self._before:
            raise UserError(f"{self._store.address} changed while it was read: start again when it is written.")
        return count


def open_stream(path: Path) -> IO[bytes]:
    """Open a `StoreFile` for reading from its start.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    return io.BufferedReader(_Object(path), _BUFFER)


def seekable(path: Path) -> Any:
    """What pyarrow reads a file by: the path of a local one, and of a `StoreFile` the opened object.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    return _Object(path) if isinstance(path, StoreFile) else path


def need_room(folder: Path, size: int) -> None:
    """Refuse to download more than the disk has room for.

    Raises:
        WorkFailed: there is too little.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise WorkFailed(f"{folder} has room for {free / 1e9:,.1f} GB and {size / 1e9:,.1f} GB are due: make room.")
