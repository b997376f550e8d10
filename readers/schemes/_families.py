"""What each family of formats is called, known by, and held against; pages and errors read it.

The tables of README.md and docs/formats/README.md are made of these rows and of the table of
encodings by `python tests/format_tables.py --write`, and a test holds them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """A row: what of a family is read.

    `schemes` are the names that `inspect` prints, `oracle` what expected values come from.
    """

    title: str
    holds: str
    containers: str
    evidence: str
    schemes: str
    oracle: str


# By the page in docs/formats; in the order that they are listed.
FAMILIES: dict[str, Family] = {
    "dense": Family(
        "dense",
        "F64, F32, F16, BF16; integers, booleans and complex numbers stay as they are",
        "any",
        "what no other scheme took, and is no code",
        "passthrough",
        "numpy, ml_dtypes, rational arithmetic",
    ),
    "fp8": Family(
        "FP8: DeepSeek, compressed-tensors, ModelOpt, fbgemm, Mistral, ComfyUI",
        "E4M3, E5M2 and their FNUZ twins; a scale a tensor, row, column, block or 32 "
        "elements; names of DeepSeek, compressed-tensors, ModelOpt, fbgemm, Mistral, ComfyUI",
        "any",
        "FP8 dtype and a scale's name",
        "fp8-block fp8-channel fp8-tensor mxfp8 fp8-unit",
        "ml_dtypes, compressed-tensors, transformers",
    ),
    "bitsandbytes": Family(
        "bitsandbytes",
        "NF4 and FP4, double-quantised or not; INT8",
        "any",
        "quant state, `SCB`",
        "bnb-nf4 bnb-fp4 bnb-int8",
        "bitsandbytes",
    ),
    "gptq": Family(
        "GPTQ, AutoRound, GPTQ-for-LLaMa",
        "v1, v2, AutoRound; 2, 3, 4, 8 bits (AutoRound 2 to 8); act-order, any group size; "
        "GPTQ-for-LLaMa's first layout",
        "any",
        "`qweight`, `qzeros`, `scales` and their shapes; floats `zeros`",
        "gptq gptq-for-llama",
        "GPTQModel, AutoRound, GPTQ-for-LLaMa",
    ),
    "marlin": Family(
        "Marlin, Marlin 2:4, QQQ",
        "four bits in tiles, of AutoGPTQ; 2:4 sparse ones of 4 and 8 bits, compressed-tensors' "
        "`marlin-24` among them; QQQ",
        "any",
        "`B` and `s`; `meta` or `B_meta`; `s_channel`",
        "marlin marlin-24 qqq",
        "auto-gptq, compressed-tensors, GPTQModel",
    ),
    "awq": Family(
        "AWQ, ParoQuant",
        "4 bits, GEMM and GEMV; ParoQuant's under `--rounding reference`",
        "any",
        "the same",
        "awq",
        "AutoAWQ, paroquant",
    ),
    "compressed-tensors": Family(
        "compressed-tensors: packed integers, INT8, 2:4 sparsity, transforms",
        "packed integers of 1 to 8 bits, INT8; 2:4 sparse FP8, INT8 and floats; its transforms of "
        "inputs and outputs undone",
        "any",
        "I32 `weight_packed`, I8 `weight` with `weight_scale`",
        "ct-pack-quantized ct-int-quantized ct-sparse-24 ct-turned",
        "compressed-tensors",
    ),
    "modelslim": Family(
        "ModelSlim: INT8",
        "INT8 with offsets",
        "any",
        "`weight_offset` beside I8, or `quant_model_description.json`",
        "modelslim-int8",
        "compressed-tensors, by the same numbers",
    ),
    "comfyui": Family(
        "ComfyUI: NVFP4, MXFP8, INT8, INT4, SVDQuant, rotated or not",
        "marked NVFP4, MXFP8, INT8 and INT4, rotations (ConvRot) and SVDQuant undone",
        "safetensors",
        "its marks",
        "nvfp4 mxfp8 comfy-int8 comfy-int4 comfy-w4a8 comfy-awq comfy-svdquant",
        "comfy-kitchen",
    ),
    "nunchaku": Family(
        "Nunchaku: SVDQuant",
        "INT4 and NVFP4 in tiles, smoothing undone and the low-rank part added back; W4A16",
        "any",
        "`wscales` beside I8 or I32 `qweight`",
        "nunchaku",
        "deepcompressor's packer",
    ),
    "modelopt": Family(
        "ModelOpt: INT4, INT8",
        "INT4 and INT8, AWQ and SmoothQuant folded",
        "any",
        "its config, U8 pairs of rows or I8",
        "modelopt-int4 modelopt-int8",
        "ModelOpt",
    ),
    "gemma": Family(
        "Gemma: 2, 4, 8 bits",
        "2, 4 and 8 bits, embeddings too",
        "any",
        "`quant_method: gemma`",
        "gemma-int2 gemma-int4 gemma-int8",
        "transformers",
    ),
    "aqlm": Family(
        "AQLM",
        "additive codebooks",
        "any",
        "`codebooks`",
        "aqlm",
        "aqlm",
    ),
    "exl2": Family(
        "EXL2",
        "ExLlamaV2's groups of 2 to 8 bits, permuted back",
        "any",
        "`q_weight`",
        "exl2",
        "exllamav2's kernel, compiled for the CPU",
    ),
    "exl3": Family(
        "EXL3",
        "ExLlamaV3's trellises of 1 to 8 bits, with any of its three codebooks",
        "any",
        "`trellis`",
        "exl3",
        "GPTQModel, scipy",
    ),
    "gguf-packed": Family(
        "ggml's blocks by GPTQModel",
        "Q4_0, Q8_0, Q4_K to Q6_K and one and two bits, one type a model",
        "any",
        "`qweight` of bytes, and the configuration",
        "gguf-q4-0 gguf-q8-0 gguf-q4-k gguf-q5-k gguf-q6-k",
        "GPTQModel, gguf-py",
    ),
    "vptq": Family(
        "VPTQ",
        "packed indices of 1 or 2 codebooks, with outliers, norms and permutations",
        "any",
        "`centroids.weight`, `indices`; the configuration's sizes",
        "vptq",
        "vptq, GPTQModel",
    ),
    "fp4": Family(
        "FP4 and FP6: compressed-tensors, ModelOpt, DeepSeek-V4, gpt-oss",
        "of compressed-tensors, ModelOpt, Quark, DeepSeek-V4 and gpt-oss; stacked experts",
        "any",
        "packed U8 or I8, and E4M3 or E8M0 scales for blocks",
        "nvfp4 mxfp4 mxfp6 mxint4",
        "compressed-tensors, ModelOpt, transformers",
    ),
    "fouroversix": Family(
        "Four Over Six",
        "NVFP4, MXFP4, INT4 and IF4 over the tensor's maximum, in blocks of 8, 16 or 32",
        "any",
        "`quantized_weight_values`; the configuration's dtype and rule",
        "fouroversix",
        "fouroversix",
    ),
    "fp-quant": Family(
        "FP-Quant",
        "MXFP4 and NVFP4 of weights rotated in groups of inputs, rotated back",
        "any",
        "`forward_hadamard_matrix`",
        "fp-quant",
        "qutlass's reference",
    ),
    "bitnet": Family(
        "BitNet",
        "packed ternary weights",
        "any",
        "`quant_method: bitnet`, U8 matrices",
        "bitnet",
        "transformers",
    ),
    "hqq": Family(
        "HQQ",
        "1, 2, 3, 4 and 8 bits along both axes; also as `qmodel.pt`",
        "any",
        "`W_q`",
        "hqq",
        "hqq",
    ),
    "sinq": Family(
        "SINQ",
        "SINQ and A-SINQ of 1 to 6 and 8 bits, nf4 and nf3, along the inputs and in tiles",
        "any",
        "`quant_method: sinq`, `W_q` with `meta.scale2`",
        "sinq",
        "sinq",
    ),
    "quanto": Family(
        "Quanto",
        "8, 4 and 2 bits, float8",
        "any",
        "names that end in `._data`",
        "quanto",
        "optimum-quanto",
    ),
    "mlx": Family(
        "MLX, and transformers' Metal",
        "affine groups of 2 to 8 bits, MXFP4, MXFP8, NVFP4",
        "any",
        "U32 `weight` with `scales`",
        "mlx-affine mlx-mxfp4 mlx-mxfp8 mlx-nvfp4",
        "mlx, transformers",
    ),
    "quark": Family(
        "Quark: INT4; its FP8 and MXFP4 are above",
        "INT4 in groups; its FP8 and MXFP4 are of the families above",
        "any",
        "`quant_method: quark`, I32 `weight` with `weight_scale`",
        "quark-int4",
        "amd-quark",
    ),
    "onnx": Family(
        "ONNX: MatMulNBits, DequantizeLinear and plain initialisers",
        "`MatMulNBits` of 2, 4 and 8 bits in blocks; `DequantizeLinear` of every code, axis and "
        "block; `GatherBlockQuantized`; initialisers, inside or beside",
        "onnx",
        "the operator that takes the initialiser",
        "onnx-int2 onnx-int4 onnx-int8 onnx-linear",
        "onnxruntime",
    ),
    "torchao": Family(
        "torchao",
        "float8, integers in groups, MX and NVFP4, tiled or not; its classes in pickles",
        "safetensors, pth",
        "its metadata, `_qdata`; its classes in a pickle",
        "torchao-float8 torchao-int8 torchao-intx torchao-int4 torchao-mx torchao-nvfp4 "
        "torchao-affine",
        "torchao",
    ),
    "gguf": Family(
        "ggml's block types",
        "every block type: Q4_0 to Q8_0, Q2_K to Q6_K, IQ1 to IQ4, TQ1_0, TQ2_0, Q1_0, Q2_0, "
        "MXFP4, NVFP4; ik_llama.cpp's IQ2_K to IQ6_K, KS, KL, KT, Q6_0; FP8",
        "GGUF",
        "type of the tensor",
        "",
        "ggml, gguf-py",
    ),
}
