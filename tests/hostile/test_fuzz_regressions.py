"""Every kept file of the fuzzer: the seeds, and what was once found (tests/fuzz)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"
KEPT = sorted(p for kind in ("corpus", "regressions") for p in (FUZZ / kind).glob("*/*"))
CORPUS_BYTES = 200_000


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Any]:
    """The module `targets`, with the folder it lies in on the path."""
    sys.path.insert(0, str(FUZZ))
    try:
        import targets

        yield targets
    finally:
        sys.path.remove(str(FUZZ))


@pytest.fixture(scope="module")
def lab(fuzz: Any) -> Iterator[Any]:
    lab = fuzz.Lab()
    yield lab
    lab.close()


@pytest.mark.parametrize("path", KEPT, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_replay(path: Path, fuzz: Any, lab: Any) -> None:
    fuzz.TARGETS[path.parent.name].run(lab, path.read_bytes(), convert=True)


def test_every_target_has_the_seeds_that_the_script_makes(fuzz: Any) -> None:
    from make_corpus import SEEDS

    assert set(SEEDS) == set(fuzz.TARGETS)
    kept = {p.relative_to(FUZZ / "corpus").as_posix() for p in KEPT if "corpus" in p.parts}
    assert kept == {f"{target}/{name}" for target, make in SEEDS.items() for name in make()}
    assert sum(p.stat().st_size for p in KEPT if "corpus" in p.parts) < CORPUS_BYTES


def test_most_seeds_are_accepted(fuzz: Any, lab: Any) -> None:
    """A fuzzer that starts from refused files learns little."""
    from anamnesis.errors import AnamnesisError
    from anamnesis.readers import open_container

    refused = []
    for path in KEPT:
        target = fuzz.TARGETS[path.parent.name]
        if "corpus" in path.parts and target.name.startswith("m."):
            try:
                open_container(lab.place(target.name, path.read_bytes()), fuzz.LIMITS)
            except AnamnesisError:
                refused.append(path.name)
    assert refused == ["pickle"]


def test_seeds_of_layers_are_read(fuzz: Any, tmp_path: Path) -> None:
    """Each as the encoding that it is called by, where it is called by one."""
    from layer_seeds import of_encodings, seeds
    from layer_targets import LIMITS, write_layers

    from anamnesis.readers.model import load_model

    found = {}
    for name, data in seeds().items():
        assert write_layers(tmp_path, data)
        found[name] = {t.encoding for t in load_model(str(tmp_path), limits=LIMITS).tensors}
    # Of these settings are numbers that a seed has not, as there are too many.
    others = {"bf16", "f16", "f32", "f64", "sinq-table"}
    assert all(name in found[name] for name in of_encodings().keys() - others)


@pytest.mark.parametrize(
    "name", ["arrow", "gguf", "npz", "pth", "pth-legacy", "safetensors", "to-hf"]
)
def test_mutators_keep_the_structure(name: str, fuzz: Any, lab: Any) -> None:
    """Many mutants get past the checksums and lengths, and they differ from the seeds."""
    from mutators import MUTATORS

    from anamnesis.errors import AnamnesisError
    from anamnesis.readers import open_container

    def mutate(part: bytes, most: int) -> bytes:
        at = chance.randrange(len(part)) if part else 0
        return (part[:at] + bytes((chance.randrange(256),)) + part[at + 1 :])[:most]

    chance, target = Random(5), fuzz.TARGETS[name]
    seeds = [path.read_bytes() for path in KEPT if path.parent.name == name]
    accepted = set()
    for _ in range(100 if name == "to-hf" else 300):
        mutant = MUTATORS[name](chance.choice(seeds), chance, mutate)
        target.run(lab, mutant)
        with suppress(AnamnesisError):
            open_container(lab.place(target.name, mutant), fuzz.LIMITS)
            accepted.add(mutant)
    assert len(accepted - set(seeds)) > 20


@pytest.mark.parametrize("name", ["config", "index", "journal", "layers", "manifest", "to-gguf"])
def test_records_and_configurations_of_any_values(name: str, fuzz: Any, lab: Any) -> None:
    """A part of what the fuzzer does, in every run: odd values everywhere in the seeds."""
    from mutators import MUTATORS

    def mutate(part: bytes, most: int) -> bytes:
        at = chance.randrange(len(part)) if part else 0
        return (part[:at] + bytes((chance.randrange(256),)) + part[at + 1 :])[:most]

    chance = Random(int(os.environ.get("FUZZ_SEED", "7")))
    seeds = [path.read_bytes() for path in KEPT if path.parent.name == name]
    for _ in range(int(os.environ.get("FUZZ_MUTANTS", "300"))):
        mutant = chance.choice(seeds)
        for _ in range(chance.randrange(1, 4)):
            mutant = MUTATORS[name](mutant, chance, mutate)
        fuzz.TARGETS[name].run(lab, mutant)


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), RecursionError()])
def test_foreign_exceptions_are_finds(error: Exception, fuzz: Any) -> None:
    with pytest.raises(type(error)), fuzz.documented("a"):
        raise error
    with pytest.raises(fuzz.BrokenPromiseError), fuzz.documented("a"):
        raise fuzz.AnamnesisError("of which?")
    with fuzz.documented("a"):
        raise fuzz.AnamnesisError("a: b")
