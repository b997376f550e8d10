"""The table of readers: which parser opens a file. Rows are sorted by name; a module is
imported when a file of its kind is opened.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reader:
    """A row: the parser, the bytes that its files have at `magic_at`, and their usual names.

    A magic number is `decisive` when nothing else has it; otherwise the file's name may say more.
    Of archives, one member's name has to end with `holds`. A parser that `judges` is asked about
    every file of its names whose first bytes, or members, no row knows. A file without any tensor
    may begin with `empty` instead. `page` is that of docs/formats, which says what is refused.
    """

    target: str  # "module:function" inside anamnesis.readers; called with (path, limits)
    magic: bytes
    extensions: tuple[str, ...]
    magic_at: int = 0
    decisive: bool = True
    holds: str = ""
    judges: bool = False
    empty: bytes = b""
    page: str = ""


_TORCH = (".ckpt", ".pt", ".pth", ".th")
READERS: dict[str, Reader] = {
    "arrow": Reader("arrow:open_arrow", b"ARROW1", (".arrow", ".feather"), page="arrow"),
    "gguf": Reader("gguf:open_gguf", b"GGUF", (".gguf",), page="gguf"),
    "llamafile": Reader("gguf:open_gguf", b"MZqFpD=", (".llamafile",), page="gguf"),
    "npy": Reader("npy:open_npy", b"\x93NUMPY", (".npy",)),
    "npz": Reader("npz:open_npz", b"PK\x03\x04", (".npz",), holds=".npy", empty=b"PK\x05\x06"),
    "onnx": Reader("onnx:open_onnx", b"\x08", (".onnx",), decisive=False, page="onnx"),
    "pth": Reader(
        "pth:open_pth", b"PK\x03\x04", _TORCH, holds="/data.pkl", judges=True, page="pytorch"
    ),
    "pth-legacy": Reader(
        "pth:open_pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", _TORCH, page="pytorch"
    ),
    "safetensors": Reader(
        "safetensors:open_safetensors", b"{", (".safetensors",), magic_at=8, decisive=False
    ),
}
