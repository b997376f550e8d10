"""Blobs in Azure, by the SDK that adlfs brings (the extra `az`), with adlfs's credentials.

A block blob is made of blocks that were *staged* under names of their own, by anybody, and is there
when a list of them is committed. The name of a block has its number and the MD5 of its bytes, so
that blocks of different bytes never take each other's place, and a late one does no harm. Staged
blocks are no blob: no listing shows them. Nothing removes them but a commit to the same name, or
the store, a week later. Conditions are ETags, and `If-None-Match: *` for what must be new.
https://learn.microsoft.com/rest/api/storageservices/put-block-list
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import secrets
from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any, TypeVar

from anamnesis.readers.urls import call_on
from anamnesis.writers.objects import Besides, Driven, Parts

T = TypeVar("T")


class Azure(Driven):
    """A container of a storage account."""

    @staticmethod
    def besides(parts: int) -> Besides:
        """To list the blocks, whatever their number, and to commit them."""
        return Besides(0, 2, 0)

    def names(self, folder: str) -> list[str]:
        container, name, _ = self._fs.split_path(self._path(folder))
        prefix = f"{name}/" if name else ""

        async def request(_: Any) -> set[str]:
            async with self._fs.service_client.get_container_client(container) as client:
                found = client.walk_blobs(prefix, delimiter="/", retry_total=0)
                return {str(blob.name)[len(prefix) :].rstrip("/") async for blob in found}

        try:
            return sorted(self._ask(folder, request) - {""})
        except FileNotFoundError:  # no such container
            return []

    def size(self, url: str) -> int:
        async def request(blob: Any) -> int | None:
            found = await blob.get_blob_properties(retry_total=0)
            return None if (found.metadata or {}).get("hdi_isfolder") else int(found.size)

        size = self._ask(url, request)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "is a folder", url)
        return size

    def get(self, url: str) -> tuple[bytes, str]:
        async def request(blob: Any) -> tuple[bytes, str]:
            stream = await blob.download_blob(retry_total=0)
            return bytes(await stream.readall()), str(stream.properties.etag)

        return self._ask(url, request)

    def age(self, url: str) -> float:
        """By the store's clock, which every answer has."""

        async def request(blob: Any) -> float:
            dates: list[str] = []

            def note(answer: Any) -> None:
                dates.append(answer.http_response.headers["Date"])

            found = await blob.get_blob_properties(retry_total=0, raw_response_hook=note)
            now = email.utils.parsedate_to_datetime(dates[-1])
            return max(0.0, float((now - found.last_modified).total_seconds()))

        return self._ask(url, request)

    def put(self, url: str, data: bytes, *, version: str | None = None, new: bool = False) -> str:
        condition = {} if version is None else {"etag": version, "match_condition": _match(False)}
        condition |= {"match_condition": _match(True)} if new else {}

        async def request(blob: Any) -> str:
            answer = await blob.upload_blob(
                bytes(data), overwrite=not new, validate_content=True, retry_total=0, **condition
            )
            return str(answer["etag"])

        return self._ask(url, request, len(data))

    def begin(self, url: str, folder: str) -> str:
        return secrets.token_hex(8)

    def part(self, url: str, upload: str, number: int, data: Any) -> str:
        body = bytes(data)
        tag = hashlib.md5(body, usedforsecurity=False).hexdigest()

        async def request(blob: Any) -> None:
            file = BytesIO(body)  # which is sent piece by piece, and lets other requests go on
            await blob.stage_block(
                _name(number, tag), file, len(body), validate_content=True, retry_total=0
            )

        self._ask(url, request, len(body))
        return tag

    def parts(self, url: str, upload: str) -> set[tuple[int, str, int]]:
        async def request(blob: Any) -> list[Any]:
            _, staged = await blob.get_block_list("uncommitted", retry_total=0)
            return list(staged)

        found = ((*str(block.id).partition("-"), block.size) for block in self._ask(url, request))
        return {(int(number), tag, int(size)) for number, dash, tag, size in found if dash}

    def complete(self, url: str, upload: str, parts: Parts, *, new: bool) -> None:
        names = [_name(number, tag) for number, tag in parts]
        condition = {"match_condition": _match(True)} if new else {}

        async def request(blob: Any) -> None:
            from azure.storage.blob import BlobBlock  # noqa: PLC0415

            blocks = [BlobBlock(name) for name in names]
            await blob.commit_block_list(blocks, retry_total=0, **condition)

        async def committed(blob: Any) -> list[str]:
            blocks, _ = await blob.get_block_list("committed", retry_total=0)
            return [str(block.id) for block in blocks]

        try:
            self._ask(url, request)
        except FileExistsError:
            # The answer may have been lost, and the request made again: then this is the blob.
            if self._ask(url, committed) != names:
                raise

    def abort(self, url: str, upload: str) -> None:
        """Nothing can be asked for; see above."""

    def _ask(
        self, url: str, request: Callable[[Any], Coroutine[Any, Any, T]], nbytes: int = 0
    ) -> T:
        """Make a request of a blob's client, again when it may succeed later."""
        from azure.core import exceptions  # noqa: PLC0415 - the driver's

        container, name, _ = self._fs.split_path(self._path(url))

        async def asked() -> T | OSError:
            client = self._fs.service_client.get_blob_client(container, name or "-")
            try:
                async with client as blob:
                    return await request(blob)
            except exceptions.ResourceNotFoundError as error:
                return FileNotFoundError(errno.ENOENT, f"no such object ({error.error_code})", url)
            except (exceptions.ResourceExistsError, exceptions.ResourceModifiedError):
                return FileExistsError(errno.EEXIST, "was written by another meanwhile", url)

        answer = call_on(self._fs.loop, url, asked, nbytes)
        if isinstance(answer, OSError):
            raise answer
        return answer


def _match(missing: bool) -> Any:
    """The SDK's word for `If-None-Match: *`, or for `If-Match`."""
    from azure.core import MatchConditions  # noqa: PLC0415

    return MatchConditions.IfMissing if missing else MatchConditions.IfNotModified


def _name(number: int, tag: str) -> str:
    """The name of a block: as long as any other's."""
    return f"{number:05d}-{tag}"


__all__ = ["Azure"]
