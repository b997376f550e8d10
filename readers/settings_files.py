"""Files of settings beside the weights, in YAML and TOML as well as JSON: which they are by name.

TOML is read where a file is called after quantisation; others are of trainers and build tools. A
configuration of quantisation in a spelling that is not read is remarked on, by its name.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.yaml_values import ENDINGS, read_yaml

TOML = ".toml"
# Not of code, pictures, logs and pages, which may be called after quantisation too.
_UNREAD = re.compile(
    r"(.*[_.-])?(de|re)?quant[a-z]*[_.-]?(config|settings|method|meta).*\.(cfg|conf|ini|json5|jsonc|txt|xml)",
    re.IGNORECASE,
)


def is_json(name: str) -> bool:
    """Whether a file is JSON by its name."""
    return name.lower().endswith(".json")


def is_yaml(name: str) -> bool:
    """Whether a file is YAML by its name."""
    return name.lower().endswith(ENDINGS)


def is_unread(name: str) -> bool:
    """Whether by its name a file configures quantisation, in a spelling that is not read."""
    return _UNREAD.fullmatch(name) is not None


def parse(data: bytes, path: str) -> dict[str, Any]:
    """What YAML or TOML holds. Raises FormatError for what is none, or no mapping."""
    if not path.lower().endswith(TOML):
        return read_yaml(data, path)
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: is no TOML: {error!s:.200}") from None


__all__ = ["is_json", "is_unread", "is_yaml", "parse"]
