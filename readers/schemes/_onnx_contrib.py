"""Codes of ONNX Runtime's `MatMulBnb4` and `QMoE`.

`MatMulBnb4` has bitsandbytes' codes, as that library packs them (`kernels/bnb.py`):

| initialiser | shape | meaning |
|---|---|---|
| `B` | U8 `[N * K / 2]` | codes of FP4 (`quant_type` 0) or NF4 (1), the first in the high bits |
| `absmax` | F32, F16 or BF16 `[N * K / block_size]` | |

`QMoE` has the experts of a layer in one tensor, for each of two or three matrices:

| initialiser | shape | meaning |
|---|---|---|
| weights | U8 `[E, N, K * bits / 8]` | codes, low bits first; 4 and 8 bits |
| scales | F32, F16 or BF16 `[E, N, K / block_size]`, or `[E, N]` | |
| `zero_points` | U8 `[E, N, blocks * bits / 8]`, or `[E, N * bits / 8]` | none: `2 ** (bits - 1)` |

CUDA's kernels have `[E, K, N * bits / 8]`, in the order of a kernel, unless `weights_prepacked` is
0; without that attribute the shapes of a node's matrices tell the two apart. Source:
https://github.com/microsoft/onnxruntime onnxruntime/contrib_ops/cpu/quantization
(`matmul_bnb4.cc`, `blockwise_quant_block_bnb4.h`), contrib_ops/cpu/moe/moe_quantization_cpu.cc,
contrib_ops/cuda/moe/moe_quantization.cc, docs/ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._onnx_linear import Layer, assemble, grid_of
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

_TYPES = {0: "fp4", 1: "nf4"}
_BLOCKS = (32, 64, 128, 256)  # onnxruntime has 16 besides, bitsandbytes has not
_EXPERT_BITS = (4, 8)


def bnb4(ledger: Ledger, codes: Stored, name: str, rows: int, inputs: int) -> Tensor:
    """Codes of `MatMulBnb4`, the weight `[N, K]`."""
    values = ledger.container.values
    size, kind, transposed = (
        values[f"{codes.name}.{key}"] for key in ("block_size", "quant_type", "transB")
    )
    if size not in _BLOCKS or kind not in _TYPES or not transposed:
        raise unsupported(
            codes,
            f"MatMulBnb4 of quant_type {kind}, block_size {size}, transB {transposed}",
            f"quant_type 0 and 1, block_size {_BLOCKS}, transB 1",
        )
    elems = rows * inputs
    if codes.dtype != "U8" or codes.nbytes != -(-elems // 2):
        raise misfit(codes, f"U8, {-(-elems // 2):,} bytes, by the attributes K and N of its node")
    absmax = need(ledger, codes, str(values[f"{codes.name}.scales"]), "input 2 of its node")
    bits = SCALE_BITS.get(absmax.dtype, 0)
    if not bits or absmax.nbytes * 8 != bits * -(-elems // size):
        raise misfit(absmax, f"{', '.join(SCALE_BITS)}: {-(-elems // size):,}")
    return Tensor(
        name=name,
        shape=(rows, inputs),
        scheme=f"onnx-{_TYPES[kind]}",
        encoding="bnb-4bit",
        components=(
            Component("payload", codes, Contiguous(4 * size)),
            Component("absmax", absmax, Contiguous(bits)),
        ),
        unit_elems=size,
        params={
            "bits": 4,
            "group_size": size,
            "quant_type": _TYPES[kind],
            "dtype": "float32",
            "absmax_dtype": absmax.dtype,
            "rounding": ledger.options.rounding,
        },
    )


def experts(ledger: Ledger, codes: Stored, name: str) -> Tensor:
    """Codes of `QMoE`, the weights `[E, N, K]` as they lie, gate and up as the model has them."""
    values = ledger.container.values
    bits, block, kind, prepacked = (
        values[f"{codes.name}.{key}"]
        for key in ("expert_weight_bits", "block_size", "quant_type", "weights_prepacked")
    )
    if bits not in _EXPERT_BITS or kind != "int" or block < 0:
        raise unsupported(
            codes,
            f"QMoE of {bits} bits, quant_type {kind!r:.40}, block_size {block}",
            f"quant_type 'int' of {_EXPERT_BITS} bits",
        )
    if prepacked > 0 or (prepacked and not _by_rows(ledger, codes, bits, block)):
        raise unsupported(
            codes,
            "QMoE whose weights lie in the order of a CUDA kernel (weights_prepacked)",
            "those in rows [experts, outputs, inputs], which onnxruntime-genai's builder writes "
            "for CPU and WebGPU",
        )
    scale = need(ledger, codes, str(values[f"{codes.name}.scales"]), "a scale of its node")
    if scale.dtype not in SCALE_BITS or not _fits(codes.shape, scale.shape, bits, block):
        raise misfit(scale, f"{', '.join(SCALE_BITS)}: a scale a row, or one for {block} columns")
    columns = codes.shape[-1] * 8 // bits
    dims = (*codes.shape[:-1], columns)
    blocks = -(-columns // block) if block else 1
    grid = grid_of(dims, (*dims[:-1], blocks), 2, block or columns)
    if codes.dtype != "U8" or grid is None:
        raise misfit(codes, f"U8 [experts, outputs, inputs * {bits} / 8]")
    grid_scale = replace(scale, shape=(*dims[:-1], blocks))
    layer = Layer(codes, name, dims, f"U{bits}", grid, grid_scale, packed=True)
    return replace(assemble(ledger, layer), scheme=f"onnx-int{bits}")


def _fits(codes: tuple[int, ...], scale: tuple[int, ...], bits: int, block: int) -> bool:
    """Whether codes of some shape are rows `[E, N, K * bits / 8]` under the scale's."""
    if len(codes) != 3 or min(codes) < 1:
        return False
    blocks = -(-codes[2] * 8 // bits // block) if block else 1
    return scale == (*codes[:2], blocks) or (blocks == 1 and scale == codes[:2])


def _by_rows(ledger: Ledger, codes: Stored, bits: int, block: int) -> bool:
    """Whether the matrices of a node are rows, of which one could not be a kernel's order."""
    stored, decided = ledger.container.stored, False
    for name, scale in ledger.container.values[f"{codes.name}.experts"]:
        if name not in stored or scale not in stored:
            raise FormatError(f"{codes.file.path}: QMoE takes {name!r:.200} and {scale!r:.200}")
        matrix, grid = stored[name].shape, stored[scale].shape
        if not _fits(matrix, grid, bits, block):
            return False
        # The same bytes as `[E, K, N * bits / 8]`.
        other = (matrix[0], matrix[2] * 8 // bits, matrix[1] * bits // 8)
        decided = decided or not _fits(other, grid, bits, block)
    return decided


__all__ = ["bnb4", "experts"]
