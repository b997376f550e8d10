"""Fuzz one target with atheris: `python fuzz_one.py TARGET [libFuzzer's arguments]`."""

from __future__ import annotations

import importlib
import pkgutil
import random
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.setswitchinterval(1e-3)

# Only what parses is instrumented: kernels are compiled by numba from their bytecode.
with atheris.instrument_imports(include=["anamnesis", "yaml"]):
    import anamnesis.names
    import anamnesis.pipeline.config
    import anamnesis.pipeline.yaml_strict
    import anamnesis.readers

    for _package in (anamnesis.names, anamnesis.readers):
        for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
            importlib.import_module(_module.name)

from mutators import MUTATORS  # noqa: E402
from targets import TARGETS, Lab  # noqa: E402


def main() -> None:
    name, *arguments = sys.argv[1:]
    target, mutator = TARGETS[name], MUTATORS.get(name)
    lab = Lab()
    settings = {}
    if mutator is not None:

        def bounded(part: bytes, most: int) -> bytes:
            room = max(1, min(most, target.max_bytes))
            return bytes(atheris.Mutate(part[:room], room))

        def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
            chance = random.Random(seed)
            # Broken structure has to be tried as well.
            if chance.random() < 0.2:
                return bytes(atheris.Mutate(data, max_bytes))
            made = mutator(data, chance, bounded)
            return made if 0 < len(made) <= max_bytes else bytes(atheris.Mutate(data, max_bytes))

        settings["custom_mutator"] = mutate
    flags = [f"-max_len={target.max_bytes}", "-timeout=10", "-rss_limit_mb=1536", *arguments]
    atheris.Setup([sys.argv[0], *flags], lambda data: target.run(lab, data), **settings)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
