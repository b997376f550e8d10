"""What a caller allows a file to make this program allocate or loop over.

The fixed floors hold whatever the caller says; a caller's `Limits` only tightens them.
Every check is made before the allocation that it guards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from anamnesis.errors import LimitError, UsageError
from anamnesis.keywords import keywords
from anamnesis.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

SAFETENSORS_HEADER_BYTES = 100_000_000  # the reference implementation's cap
GGUF_ITEMS = 1 << 20  # tensors, and key/value pairs
GGUF_STRING_BYTES = 16 * MiB
GGUF_ARRAY_ITEMS = 16 * MiB
GGUF_ALIGNMENT = MiB
NAME_BYTES = 65_535
NPY_HEADER_BYTES = 10_000  # numpy's own cap
RANK = 64
SHARDS = 10_000
INDEX_BYTES = 100 * MiB
# Measured on 1,000,000 dense tensors in one file, from opening it to the manifest: 2 KiB.
RECORD_BYTES = 3 * KiB
OUTPUT_BYTES = 16 << 40  # of one input; a sparse file may declare far more than any disk has
ZIP_ENTRIES = 1 << 20
OWNED_BYTES = GiB  # of a journal or a manifest of this program's own
INDEX_ITEMS = 750_000  # tensors that a model.safetensors.index.json lists


@dataclass(frozen=True, slots=True)
class Allow:
    """What a caller lets pass that is refused without his word; nothing of it runs code.

    `follow_links`: links out of a model's folder that he owns, to regular files that he owns.
    `leave_out_unknown`: pickled objects of unknown classes are left out instead of refused.
    `include` and `exclude` are the shell patterns of a job: what they leave out need not be read.
    """

    follow_links: bool = False
    leave_out_unknown: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __or__(self, other: Allow) -> Allow:
        """What either of two allows."""
        return Allow(
            self.follow_links or other.follow_links,
            self.leave_out_unknown or other.leave_out_unknown,
            self.include if other.include == ("*",) else other.include,
            self.exclude + other.exclude,
        )

    def leaves_out(self, name: str) -> bool:
        """Whether by the patterns a tensor of that name is not wanted."""
        from fnmatch import fnmatchcase  # noqa: PLC0415 - of archives alone

        wanted = any(fnmatchcase(name, one) for one in self.include)
        return not wanted or any(fnmatchcase(name, one) for one in self.exclude)


NOTHING = Allow()


@dataclass(frozen=True, slots=True)
class Limits:
    """A caller's budget; every field tightens the fixed floors and never loosens them.

    `max_single_alloc` and `max_total_bytes` are bytes, or text such as `8GiB`; `max_items` counts
    tensors or other entries of one container, `max_expansion_ratio` is bytes out per byte stored.
    `record_bytes` is memory for the records of a model's tensors, which a run takes from its
    budget, and `disk_bytes` what it may take on local disks besides its output. `allow` is no
    matter of size; it goes along because the same readers have to know it.
    """

    max_single_alloc: int = 8 * GiB
    max_total_bytes: int | None = None
    max_items: int = 2_000_000
    max_expansion_ratio: int = 1_000
    record_bytes: int | None = None
    disk_bytes: int | None = None
    allow: Allow = NOTHING

    def __post_init__(self) -> None:
        for name in ("max_single_alloc", "max_total_bytes", "max_items", "max_expansion_ratio"):
            value = getattr(self, name)
            if value is None and name == "max_total_bytes":
                continue
            if isinstance(value, str) and name in ("max_single_alloc", "max_total_bytes"):
                value = _size(name, value)
                object.__setattr__(self, name, value)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UsageError(f"limits.{name}: found {value!r:.100}; allowed: a whole number")
            if value < 1:
                raise UsageError(f"limits.{name}: must be at least 1, found {value}")

    @classmethod
    def of(cls, given: Limits | Mapping[str, Any] | None) -> Limits:
        """The limits that a caller gives: as they are, as a mapping, or none for the usual ones.

        Raises UsageError for what is none of them.
        """
        if given is None or isinstance(given, Limits):
            return given or cls()
        if not hasattr(given, "keys"):
            raise UsageError(f"limits: found {given!r:.100}; allowed: Limits(…), or a mapping")
        return cls(**given)

    def allowing(self, follow_links: bool, leave_out_unknown: bool) -> Limits:
        """The same limits, which also allow this; what they allowed before stays allowed."""
        return replace(self, allow=self.allow | Allow(follow_links, leave_out_unknown))

    def choosing(self, include: Sequence[str], exclude: Sequence[str]) -> Limits:
        """The same limits, for tensors whose names these shell patterns choose."""
        chosen = replace(self.allow, include=tuple(include), exclude=tuple(exclude))
        return replace(self, allow=chosen)

    def alloc(self, nbytes: int, what: str, floor: int | None = None) -> None:
        """Refuse an allocation of `nbytes` before it is made."""
        self._charge("max_single_alloc", nbytes, self.max_single_alloc, floor, what)

    def items(self, count: int, what: str, floor: int | None = None) -> None:
        """Refuse a container that declares `count` entries."""
        self._charge("max_items", count, self.max_items, floor, what)

    def tensors(self, count: int, what: str) -> None:
        """Refuse a file of `count` tensors before records of them are made.

        A conversion, which sets `record_bytes`, holds `RECORD_BYTES` of each until it is done.
        """
        self.items(count, what)
        self._memory(count * RECORD_BYTES, f"{what}: what is known of {count:,} tensors")

    def memory(self, nbytes: int, what: str) -> None:
        """Refuse what takes more memory than a conversion has for what is not payload."""
        self._memory(nbytes, f"{what}:")

    def _memory(self, nbytes: int, subject: str) -> None:
        if self.record_bytes is not None and nbytes > self.record_bytes:
            raise LimitError(
                f"{subject} takes {nbytes:,} bytes of memory, run.memory leaves "
                f"{self.record_bytes:,} for it; raise it (--memory) by the rest",
                limit="run.memory",
                need=nbytes,
                have=self.record_bytes,
            )

    def total(self, nbytes: int, what: str) -> None:
        """Refuse a job whose output is over `max_total_bytes`."""
        have = OUTPUT_BYTES if self.max_total_bytes is None else self.max_total_bytes
        self._charge("max_total_bytes", nbytes, have, OUTPUT_BYTES, what)

    def expansion(self, out_bytes: int, stored_bytes: int, what: str) -> None:
        """Refuse `stored_bytes` that would become more than the allowed multiple of them."""
        ratio = -(-out_bytes // max(1, stored_bytes))
        self._charge("max_expansion_ratio", ratio, self.max_expansion_ratio, None, what)

    @staticmethod
    def _charge(limit: str, need: int, have: int, floor: int | None, what: str) -> None:
        if floor is not None and need > floor:
            raise LimitError(
                f"{what}: needs {need:,}, the fixed limit is {floor:,} ({limit})",
                limit=limit,
                need=need,
                have=floor,
            )
        if need > have:
            raise LimitError(
                f"{what}: needs {need:,}, limits.{limit} allows {have:,}; raise it "
                f"(--{limit.replace('_', '-')}) to go on",
                limit=limit,
                need=need,
                have=have,
            )


def _size(name: str, text: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise UsageError(f"limits.{name}: {error}") from None


LimitsLike: TypeAlias = "Limits | Mapping[str, Any]"  # of a job file's section `limits`
Limits.__init__ = keywords(Limits.__init__, "Limits")  # type: ignore[method-assign]
