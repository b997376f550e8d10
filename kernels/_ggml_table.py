"""The rows of ggml's block types in the table of encodings; sorted by name.

Numbers from 133 on are ik_llama.cpp's; `row_meta` is what stands before the blocks of each row.
"""

from __future__ import annotations

from typing import Any

from anamnesis.kernels._row import Bench, Encoding


def ggml(
    module: str, name: str, elems: int, nbytes: int, number: int = -1, target: int = 0, **row: Any
) -> Encoding:
    """The row of a block type of ggml: so many elements and bytes a block, and its number."""
    return Encoding(
        f"{module}:decode_{name.removeprefix('gguf-').replace('-', '_')}",
        family="GGUF",
        cases=(Bench(name, "layers:gguf", (name,), target),),
        block_elems=elems,
        block_bytes=nbytes,
        ggml_type=number,
        sections="sections:Ggml",
        **row,
    )


GGML: dict[str, Encoding] = {
    "gguf-iq1-bn": ggml("gguf_ik", "gguf-iq1-bn", 64, 13, 134, row_meta=2),
    "gguf-iq1-kt": ggml("gguf_ik_trellis", "gguf-iq1-kt", 256, 56, 158, row_meta=4),
    "gguf-iq1-m": ggml("gguf_iq1", "gguf-iq1-m", 256, 56, 29, goal=0.2, target=1120),
    "gguf-iq1-s": ggml("gguf_iq1", "gguf-iq1-s", 256, 50, 19, goal=0.2, target=1200),
    "gguf-iq2-bn": ggml("gguf_ik", "gguf-iq2-bn", 64, 16, 135, row_meta=4),
    "gguf-iq2-k": ggml("gguf_ik", "gguf-iq2-k", 256, 76, 137),
    "gguf-iq2-kl": ggml("gguf_ik", "gguf-iq2-kl", 256, 86, 157, row_meta=2),
    "gguf-iq2-ks": ggml("gguf_ik", "gguf-iq2-ks", 256, 70, 145, row_meta=2),
    "gguf-iq2-kt": ggml("gguf_ik_trellis", "gguf-iq2-kt", 256, 68, 153, row_meta=4),
    "gguf-iq2-s": ggml("gguf_iq2", "gguf-iq2-s", 256, 82, 22, goal=0.2, target=1000),
    "gguf-iq2-xs": ggml("gguf_iq2", "gguf-iq2-xs", 256, 74, 17, goal=0.2, target=1000),
    "gguf-iq2-xxs": ggml("gguf_iq2", "gguf-iq2-xxs", 256, 66, 16, goal=0.2, target=1000),
    "gguf-iq3-k": ggml("gguf_ik", "gguf-iq3-k", 256, 110, 138),
    "gguf-iq3-ks": ggml("gguf_ik", "gguf-iq3-ks", 256, 102, 156, row_meta=2),
    "gguf-iq3-kt": ggml("gguf_ik_trellis", "gguf-iq3-kt", 256, 100, 154, row_meta=4),
    "gguf-iq3-s": ggml("gguf_iq3", "gguf-iq3-s", 256, 110, 21, goal=0.2, target=1000),
    "gguf-iq3-xxs": ggml("gguf_iq3", "gguf-iq3-xxs", 256, 98, 18, goal=0.2, target=1000),
    "gguf-iq4-k": ggml("gguf_ik", "gguf-iq4-k", 256, 144, 139),
    "gguf-iq4-ks": ggml("gguf_ik", "gguf-iq4-ks", 256, 136, 144, row_meta=4),
    "gguf-iq4-kss": ggml("gguf_ik", "gguf-iq4-kss", 256, 128, 146, row_meta=4),
    "gguf-iq4-kt": ggml("gguf_ik_trellis", "gguf-iq4-kt", 256, 128, 155, row_meta=4),
    "gguf-iq4-nl": ggml("gguf_iq4", "gguf-iq4-nl", 32, 18, 20, goal=0.35, target=1880),
    "gguf-iq4-xs": ggml("gguf_iq4", "gguf-iq4-xs", 256, 136, 23, goal=0.35, target=1770),
    "gguf-iq5-k": ggml("gguf_ik", "gguf-iq5-k", 256, 176, 140),
    "gguf-iq5-ks": ggml("gguf_ik", "gguf-iq5-ks", 256, 168, 152, row_meta=4),
    "gguf-iq6-k": ggml("gguf_ik", "gguf-iq6-k", 256, 212, 141),
    "gguf-mxfp4": ggml("gguf_fp4", "gguf-mxfp4", 32, 17, 39, goal=0.35, target=1900),
    "gguf-nvfp4": ggml(
        "gguf_fp4",
        "gguf-nvfp4",
        64,
        36,
        40,
        prepare="gguf_fp4:prepare_nvfp4",
        scales="scale",
        goal=0.35,
    ),
    "gguf-q1-0": ggml("gguf_bits", "gguf-q1-0", 128, 18, 41, goal=0.6),
    "gguf-q2-0": ggml("gguf_bits", "gguf-q2-0", 64, 18, 42, goal=0.6),
    "gguf-q2-0-g128": ggml("gguf_bits", "gguf-q2-0-g128", 128, 34, goal=0.6),
    "gguf-q2-k": ggml("gguf_k", "gguf-q2-k", 256, 84, 10, goal=0.35, target=945),
    "gguf-q3-k": ggml("gguf_k", "gguf-q3-k", 256, 110, 11, goal=0.35, target=2300),
    "gguf-q4-0": ggml("gguf_legacy", "gguf-q4-0", 32, 18, 2, target=3600, goal=0.6),
    "gguf-q4-1": ggml("gguf_legacy", "gguf-q4-1", 32, 20, 3, goal=0.6),
    "gguf-q4-k": ggml("gguf_k", "gguf-q4-k", 256, 144, 12, target=3450, goal=0.6),
    "gguf-q5-0": ggml("gguf_legacy", "gguf-q5-0", 32, 22, 6, target=3000, goal=0.6),
    "gguf-q5-1": ggml("gguf_legacy", "gguf-q5-1", 32, 24, 7, target=3100, goal=0.6),
    "gguf-q5-k": ggml("gguf_k", "gguf-q5-k", 256, 176, 13, target=2000, goal=0.6),
    "gguf-q6-0": ggml("gguf_ik", "gguf-q6-0", 32, 26, 133),
    "gguf-q6-k": ggml("gguf_k", "gguf-q6-k", 256, 210, 14, target=2760, goal=0.6),
    "gguf-q8-0": ggml("gguf_legacy", "gguf-q8-0", 32, 34, 8, target=6000, goal=0.6),
    "gguf-tq1-0": ggml("gguf_bits", "gguf-tq1-0", 256, 54, 34, goal=0.35, target=2600),
    "gguf-tq2-0": ggml("gguf_bits", "gguf-tq2-0", 256, 66, 35, target=3450, goal=0.6),
}
