"""Objects in Google Cloud Storage, by gcsfs, which the extra `gs` brings.

The store puts an object together of up to 32 others by itself (*compose*), so that no byte of a
part goes over the line again: parts are objects of their own, which many workers send, and the file
is composed of them, round by round where there are more. A part is held against the MD5 that the
store has of it. Conditions are generations: 0 for what must be new, the one that was read for what
is replaced (`ifGenerationMatch`).
https://cloud.google.com/storage/docs/json_api/v1/objects/compose
"""

from __future__ import annotations

import base64
import email.utils
import errno
import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from anamnesis.readers.urls import CutShort
from anamnesis.writers.objects import PAGE, Besides, Driven, Parts, asked

MOST_COMPOSED = 32
_API = "storage/v1/"
_KIND = "application/octet-stream"


class Google(Driven):
    """A bucket of Google's; requests are gcsfs's, which tries again what may pass."""

    @staticmethod
    def besides(parts: int) -> Besides:
        """To list the parts three times, compose them, and remove them."""
        composed, left = 0, parts
        while composed == 0 or left > 1:
            left = -(-left // MOST_COMPOSED)
            composed += left
        return Besides(0, 3 * (1 + parts // PAGE) + composed + 1, parts + composed)

    def names(self, folder: str) -> list[str]:
        try:
            found, folders = self._below(folder)
        except FileNotFoundError:  # no such bucket
            return []
        keys = [str(row["name"]) for row in found] + [name.rstrip("/") for name in folders]
        return sorted({key.rpartition("/")[2] for key in keys} - {""})

    def size(self, url: str) -> int:
        return int(self._info(url)["size"])

    def get(self, url: str) -> tuple[bytes, str]:
        def request() -> tuple[bytes, str]:
            headers, data = self._fs.call("GET", self._fs.url(self._path(url)))
            return bytes(data), str(headers["X-Goog-Generation"])

        return asked(url, request)

    def age(self, url: str) -> float:
        """By the store's clock, which every answer has."""
        bucket, key, _ = self._fs.split_path(self._path(url))
        headers, row = asked(url, lambda: self._fs.call("GET", "b/{}/o/{}", bucket, key))
        now = email.utils.parsedate_to_datetime(headers["Date"])
        updated = datetime.fromisoformat(json.loads(row)["updated"])
        return max(0.0, (now - updated).total_seconds())  # of whole seconds

    def put(self, url: str, data: bytes, *, version: str | None = None, new: bool = False) -> str:
        return str(self._put(url, data, "0" if new else version)["generation"])

    def part(self, url: str, upload: str, number: int, data: Any) -> str:
        self._put(f"{upload}/{number:05d}", bytes(data), None)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def parts(self, url: str, upload: str) -> set[tuple[int, str, int]]:
        there = self._listed(upload)
        if not there:
            raise FileNotFoundError(errno.ENOENT, "no part is there", upload)
        return {(n, _digest(row), int(row["size"])) for n, row in there.items()}

    def complete(self, url: str, upload: str, parts: Parts, *, new: bool) -> None:
        there = self._listed(upload)
        rows = []
        for number, tag in parts:
            row = there.get(number)
            if row is None or _digest(row) != tag:
                raise OSError(errno.EIO, f"part {number:,} is not as it was sent", url)
            rows.append(row)
        stage = 0
        while stage == 0 or len(rows) > 1:
            stage += 1
            groups = [rows[n : n + MOST_COMPOSED] for n in range(0, len(rows), MOST_COMPOSED)]
            rows = [
                self._compose(f"{upload}/whole-{stage}-{number:05d}", group, new=False)
                for number, group in enumerate(groups)
            ]
        try:
            self._compose(url, rows, new=new)
        except FileExistsError:
            # The answer may have been lost, and the request made again: then this is the object.
            found = self._info(url)
            if any(found[name] != rows[0][name] for name in ("size", "crc32c")):
                raise
        self.abort(url, upload)

    def _put(self, url: str, data: bytes, generation: str | None) -> Any:
        """The store's record of an object that is made in place of the `generation`, if one.

        The store refuses bytes of another MD5, and so does this what it says that it has.
        """
        bucket, key, _ = self._fs.split_path(self._path(url))
        where = f"{self._fs.base.removesuffix(_API)}upload/{_API}b/{{}}/o"
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        record = {"name": key, "contentType": _KIND, "md5Hash": base64.b64encode(md5).decode()}
        kind, body = _related(record, data)
        condition = {} if generation is None else {"ifGenerationMatch": generation}

        def request() -> Any:
            row = self._fs.call(
                "POST",
                where,
                bucket,
                uploadType="multipart",
                data=body,
                headers={"Content-Type": kind},
                json_out=True,
                **condition,
            )
            if _digest(row) != md5.hex():
                raise CutShort(f"{url}: the store has other bytes than were sent")
            return row

        return asked(url, request, len(data))

    def _compose(self, url: str, rows: Sequence[Any], *, new: bool) -> Any:
        """The store's record of the object of others, of which `rows` are records."""
        bucket, key, _ = self._fs.split_path(self._path(url))
        sources = [{"name": row["name"], "generation": row["generation"]} for row in rows]
        body = {"sourceObjects": sources, "destination": {"contentType": _KIND}}
        condition = {"ifGenerationMatch": "0"} if new else {}

        def request() -> Any:
            where = "b/{}/o/{}/compose"
            return self._fs.call("POST", where, bucket, key, json=body, json_out=True, **condition)

        return asked(url, request)

    def _listed(self, upload: str) -> dict[int, Any]:
        """The store's records of parts by number."""
        found = {str(row["name"]).rpartition("/")[2]: row for row in self._below(upload)[0]}
        return {int(name): row for name, row in found.items() if name.isdecimal()}

    def _below(self, folder: str) -> tuple[list[Any], list[str]]:
        """The store's records of objects right below a prefix, and the prefixes there.

        gcsfs lists, too, and asks for an object of that name besides where there is nothing.
        """
        bucket, key, _ = self._fs.split_path(self._path(folder))
        wanted = {"prefix": f"{key}/" if key else "", "delimiter": "/"}
        rows: list[Any] = []
        folders: list[str] = []
        while True:

            def request() -> Any:
                return self._fs.call("GET", "b/{}/o", bucket, json_out=True, **wanted)

            page = asked(folder, request)
            rows += page.get("items", ())
            folders += page.get("prefixes", ())
            if not page.get("nextPageToken"):
                return rows, folders
            wanted["pageToken"] = page["nextPageToken"]

    def _info(self, url: str) -> Any:
        """The store's record of an object."""
        bucket, key, _ = self._fs.split_path(self._path(url))
        return asked(url, lambda: self._fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True))


def _related(record: dict[str, str], data: bytes) -> tuple[str, bytes]:
    """The type and the body of a request that has a record and its bytes (RFC 2387)."""
    mark = secrets.token_hex(16)
    head = f"--{mark}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(record)}"
    between = f"\r\n--{mark}\r\nContent-Type: {_KIND}\r\n\r\n"
    body = b"".join((head.encode(), between.encode(), data, f"\r\n--{mark}--\r\n".encode()))
    return f'multipart/related; boundary="{mark}"', body


def _digest(row: Any) -> str:
    """The MD5 of a record, which what is composed has none of."""
    return base64.b64decode(row.get("md5Hash") or "").hex()


__all__ = ["Google"]
