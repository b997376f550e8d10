"""`ollama:NAME[:TAG]`: a model in Ollama's store, by its manifest.

Layout: https://github.com/ollama/ollama, `manifest/paths.go` and `types/model/name.go`. Below
the store ($OLLAMA_MODELS, else ~/.ollama/models, else that of the Linux service):

    manifests/HOST/NAMESPACE/NAME/TAG   JSON with `layers`: [{"mediaType", "digest", "size"}]
    blobs/sha256-HEX                    the layer of digest sha256:HEX

A name is `[[HOST/]NAMESPACE/]NAME[:TAG]`; left out are registry.ollama.ai, library and latest.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from anamnesis.errors import (
    FormatError,
    IntegrityError,
    SecurityError,
    UnsupportedError,
    UsageError,
)
from anamnesis.limits import Limits, MiB
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.source import LocalFile
from anamnesis.readers.strict_json import loads

OLLAMA = "ollama:"
MODEL_LAYER = "application/vnd.ollama.image.model"
HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
MANIFEST_BYTES = 4 * MiB
_SERVICE = "/usr/share/ollama/.ollama/models"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_SHOWN = 20


def blob_path(name: str, limits: Limits) -> str:
    """The path of the model's GGUF blob.

    Raises UsageError or SecurityError for what is no name, FileNotFoundError that lists the models
    there are, FormatError for a broken manifest, UnsupportedError for a model of other layers,
    IntegrityError for a blob that is not of the size that its manifest says.
    """
    parts = _parts(name)
    store = _store()
    manifest = os.path.join(store, "manifests", *parts)
    if not os.path.isfile(manifest):
        raise FileNotFoundError(
            errno.ENOENT, f"no such model in {store}; there are {_listed(store)}", name
        )
    with LocalFile(manifest) as file:
        limits.alloc(file.size, manifest, MANIFEST_BYTES)
        document = loads(file.read(0, file.size), manifest, limits)
    digest, size = _model_layer(manifest, document)
    blobs = LocalFolder(os.path.join(store, "blobs"))
    blob = blobs.open(f"sha256-{digest}")
    if blob is None:
        model = name.removeprefix(OLLAMA)
        raise FileNotFoundError(
            errno.ENOENT,
            f"the model's data is not in the store; `ollama pull {model}` fetches it",
            os.path.join(blobs.path, f"sha256-{digest}"),
        )
    with blob:
        if blob.size != size:
            raise IntegrityError(
                f"{blob.path}: has {blob.size:,} bytes, its manifest {manifest} says {size:,}"
            )
        return blob.path


def _parts(name: str) -> list[str]:
    """`[host, namespace, model, tag]`, each fit to be the name of a file."""
    given = name.removeprefix(OLLAMA)
    if set(given) & set("\\\0") or given[:1] == "/" or {".", ".."} & set(re.split("[/:]", given)):
        raise SecurityError(f"{name!r:.200}: would leave Ollama's store")
    *owner, model = given.split("/")
    model, colon, tag = model.partition(":")
    usual = [HOST, NAMESPACE][: max(0, 2 - len(owner))]
    parts = [*usual, *owner, model, tag if colon else TAG]
    if len(parts) == 4 and _HOST.fullmatch(parts[0]) and all(map(_PART.fullmatch, parts[1:])):
        return parts
    raise UsageError(f"{name!r:.200}: is not of the form ollama:NAME[:TAG]")


def _store() -> str:
    given = os.environ.get("OLLAMA_MODELS")
    if given:
        return given
    own = os.path.join(os.path.expanduser("~"), ".ollama", "models")
    return _SERVICE if not os.path.isdir(own) and os.path.isdir(_SERVICE) else own


def _model_layer(manifest: str, document: Any) -> tuple[str, int]:
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise FormatError(f"{manifest}: layers: must be a list of objects")
    models = [layer for layer in layers if layer.get("mediaType") == MODEL_LAYER]
    if len(models) != 1:
        kinds = ", ".join(sorted({str(layer.get("mediaType"))[:80] for layer in layers})) or "none"
        raise UnsupportedError(
            f"{manifest}: has {len(models)} layers of type {MODEL_LAYER}, one is read; its layers "
            f"are {kinds:.500}"
        )
    digest, size = models[0].get("digest"), models[0].get("size")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise SecurityError(f"{manifest}: layers: digest: {digest!r:.100} is no SHA-256 digest")
    if type(size) is not int:
        raise FormatError(f"{manifest}: layers: size: must be an integer, found {size!r:.80}")
    return match[1], size


def _listed(store: str) -> str:
    """The first names in the store, as they would be given here."""
    root = os.path.join(store, "manifests")
    names = []
    for folder, folders, files in os.walk(root):
        depth = os.path.relpath(folder, root).split(os.sep)
        folders[:] = sorted(folders) if len(depth) < 3 or folder == root else []
        if len(depth) == 3:
            owner = [p for p, usual in zip(depth, (HOST, NAMESPACE), strict=False) if p != usual]
            names += ["/".join([*owner, depth[2]]) + f":{tag}" for tag in files]
        if len(names) > _SHOWN:
            break
    names.sort()
    if not names:
        return "none"
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
