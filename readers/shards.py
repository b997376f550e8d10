"""The files of one model, opened; and what is left of it when some of them cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from anamnesis.errors import AnamnesisError, FormatError, SecurityError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.base import Container, Stored
from anamnesis.readers.find import Found
from anamnesis.readers.index import Index
from anamnesis.readers.together import together
from anamnesis.words import and_more

_SHOWN = 5

Result = Container | AnamnesisError | OSError


def open_all(
    path: str, found: Found, limits: Limits, keep_going: bool
) -> tuple[dict[str, Container], tuple[str, ...]]:
    """The containers of the files that can be read, by path, and what is wrong with the others.

    Without `keep_going` there are no others: the error names each of them. Nor are there without
    an index, as only that tells which tensors are missing.
    """

    def attempt(name: str) -> Result:
        try:
            return open_container(name, limits)
        except (AnamnesisError, OSError) as error:
            return error

    opened = together(found.paths[0], attempt, found.paths)
    return _sound(path, found, opened, limits, keep_going)


def _sound(
    path: str, found: Found, results: Iterable[Result], limits: Limits, keep_going: bool
) -> tuple[dict[str, Container], tuple[str, ...]]:
    containers: dict[str, Container] = {}
    failures: list[AnamnesisError | OSError] = []
    count = 0
    for name, result in zip(found.paths, results, strict=True):
        if isinstance(result, Container):
            count += len(result.stored)
            limits.tensors(count, f"{path}: stored tensors")
            containers[name] = result
        elif isinstance(result, FileNotFoundError) and found.index:
            failures.append(FormatError(f"{name}: is missing; {found.index.path} names it"))
        else:
            failures.append(result)
    if not failures:
        return containers, ()
    if keep_going and containers and found.index:
        for failure in failures:
            if isinstance(failure, SecurityError | UnsupportedError):
                raise failure
        return containers, tuple(map(str, failures))
    for failure in failures:
        if not isinstance(failure, FormatError):
            raise failure
    hint = "; --keep-going converts what the others hold" if containers and found.index else ""
    if len(failures) == 1:
        raise FormatError(f"{failures[0]}{hint}") from failures[0]
    listed = "; ".join(str(failure) for failure in failures[:_SHOWN])
    more = and_more(len(failures), _SHOWN, ";")
    raise FormatError(
        f"{path}: {len(failures)} of {len(found.paths)} files cannot be read: {listed}{more}{hint}"
    )


def without_parts(
    stored: Mapping[str, Stored], index: Index, missing: Iterable[str]
) -> dict[str, Stored]:
    """The stored tensors that no tensor of the shards `missing` may belong to.

    Parts of one tensor share its module's name: `x.weight` and `x.weight_scale`, or
    `x.weight.absmax`. A whole module is left out for one that is missing, which may be too much.
    """
    gone = set(missing)
    touched = {
        stem for name, shard in index.weight_map.items() if shard in gone for stem in _stems(name)
    }
    return {name: s for name, s in stored.items() if not touched.intersection(_stems(name))}


def _stems(name: str) -> set[str]:
    """The names that parts of the same tensor may have in common."""
    module = name.rpartition(".")[0]
    outer = module.rpartition(".")[0] if module.endswith((".weight", ".bias")) else ""
    return {name, module, outer} - {""}
