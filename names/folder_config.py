"""What a model folder says of its model: `config.json`, and what stands in files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.errors import FormatError, UsageError
from anamnesis.limits import Limits
from anamnesis.names.vocabulary import read_object
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.strict_json import loads


def folder_config(folder: LocalFolder, limits: Limits) -> dict[str, Any]:
    """`config.json`, with the files of its tokenizer and processor, and `pooling`, as its blocks.

    Raises UsageError where there is no config.json.
    """
    file = folder.open("config.json")
    if file is None:
        raise UsageError(
            f"{folder.path}: a GGUF for llama.cpp is made of a model folder with its config.json; "
            "--names stored writes the tensors of any input under the names they have"
        )
    with file:
        config = loads(file.read(0, file.size), f"{folder.path}/config.json", limits)
    if not isinstance(config, dict):
        return {}
    for name in ("tokenizer_config", "preprocessor_config", "processor_config"):
        config.setdefault(name, read_object(folder, f"{name}.json", limits))
    config.setdefault("pooling", _pooling(folder, limits))
    return config


def token_id(
    folder: LocalFolder, config: Mapping[str, Any], token: str, limits: Limits
) -> int | None:
    """The id of an added token by its text, as the tokenizer's files say it; None for none.

    FormatError for files that list no tokens there.
    """
    decoder = config["tokenizer_config"].get("added_tokens_decoder")
    document = {} if decoder else read_object(folder, "tokenizer.json", limits)
    try:
        added = [(int(number), about["content"]) for number, about in (decoder or {}).items()]
        added += [(int(t["id"]), t["content"]) for t in document.get("added_tokens") or ()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder.path}: its tokenizer's files are broken: {error!r}") from error
    return next((number for number, text in added if text == token), None)


def _pooling(folder: LocalFolder, limits: Limits) -> dict[str, Any]:
    """How sentence-transformers makes one vector of a text's; empty where it is not said.

    (`modules.json` lists modules with their folders, https://www.sbert.net.)
    """
    file = folder.open("modules.json")
    if file is None:
        return {}
    with file:
        modules = loads(file.read(0, file.size), f"{folder.path}/modules.json", limits)
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict) and str(module.get("type")).endswith("Pooling"):
            return read_object(folder, f"{module.get('path')}/config.json", limits)
    return {}
