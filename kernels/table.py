"""The table of encodings: one row says all that the program needs to know of one.

Where its decoder is, the geometry of its blocks, which component holds its scales, how `scan` shows
its blocks, what benchmarks measure it on and expect of it, and the family that pages list it under.
Functions are named by `module:function`, and their modules are imported on first use; rows are
sorted by name. Those of ggml's block types are in `_ggml_table.py`,
torchao's in `_torchao_table.py`, and those of layouts that one kernel or tool has to itself in
`_vendor_table.py`.
"""

from __future__ import annotations

from functools import partial

from anamnesis.kernels._ggml_table import GGML
from anamnesis.kernels._row import Bench, Encoding
from anamnesis.kernels._torchao_table import TORCHAO
from anamnesis.kernels._vendor_table import VENDOR

# What the rows of a family share.
_AWQ = partial(Encoding, prepare="awq:prepare", family="GPTQ and AWQ", scales="scales")
_FP4 = partial(Encoding, family="FP4 and FP6", scales="scale", goal=0.35)
_FP8 = partial(
    Encoding,
    prepare="fp8:prepare",
    stack="fp8:stacked",
    family="FP8",
    scales="scale",
    sections="sections:Fp8",
    goal=0.6,
)
_HQQ = partial(Encoding, family="HQQ, Quanto and BitNet", scales="scale")

_OWN: dict[str, Encoding] = {
    "awq-gemm": _AWQ(
        "awq:decode_gemm",
        sections="sections:grouped",
        goal=0.35,
        cases=(Bench("awq int4 g128", "layers:awq", ("gemm",), target=1150),),
    ),
    "awq-gemv": _AWQ(
        "awq:decode_gemv",
        sections="sections:Gemv",
        goal=0.35,
        cases=(Bench("awq int4 g128 gemv", "layers:awq", ("gemv",)),),
    ),
    "awq-gemv-fast": _AWQ(
        "awq:decode_gemv_fast",
        goal=0.35,
        cases=(Bench("awq int4 g128 gemv-fast", "layers:awq", ("gemv_fast",)),),
    ),
    "awq-stream": _AWQ(
        "awq:decode_stream",
        sections="sections:grouped",
        goal=0.2,  # lines of codes are joined to words before these are turned
        cases=(
            Bench("awq int5 g128", "layers:awq_stream", (5,)),
            Bench("awq int6 g128", "layers:awq_stream", (6,)),
        ),
    ),
    "basis": Encoding(
        "basis:decode",
        prepare="basis:prepare",
        family="FP4 and FP6",
        cases=(Bench("fp-quant mxfp4", "rotated_layers:fp_quant"),),
    ),
    "bf16": Encoding(
        "dense:decode_bf16",
        family="Dense",
        goal=0.6,
        cases=(Bench("bf16 to f32", "layers:dense", ("bf16",), passthrough="f32"),),
    ),
    "bitnet": Encoding(
        "bitnet:decode",
        prepare="bitnet:prepare",
        family="HQQ, Quanto and BitNet",
        scales="weight_scale",
        goal=0.6,
        cases=(Bench("bitnet", "layers:bitnet"),),
    ),
    "bnb-4bit": Encoding(
        "bnb:decode_4bit",
        prepare="bnb:prepare_4bit",
        family="bitsandbytes",
        scales="absmax",
        sections="sections:BnbFourBit",
        goal=0.35,
        cases=(
            Bench("bnb nf4", "layers:bnb_4bit", (False,), target=1240),
            Bench("bnb nf4 nested", "layers:bnb_4bit", (True,)),
        ),
    ),
    "bnb-int8": Encoding(
        "bnb:decode_int8",
        family="bitsandbytes",
        scales="SCB",
        sections="sections:BnbInt8",
        goal=0.6,
        cases=(Bench("bnb int8", "layers:bnb_int8", target=3400),),
    ),
    "ct-int8": Encoding(
        "ct:decode_int8",
        prepare="ct:prepare",
        family="compressed-tensors",
        scales="weight_scale",
        sections="sections:Grid",
        goal=0.6,
        cases=(Bench("ct int8", "layers:ct_int8"),),
    ),
    "ct-packed": Encoding(
        "ct:decode_packed",
        prepare="ct:prepare",
        family="compressed-tensors",
        scales="weight_scale",
        sections="sections:Grid",
        goal=0.35,
        cases=(
            Bench("ct packed int4 g128", "layers:ct_packed", (4, False)),
            Bench("ct packed int8 g128", "layers:ct_packed", (8, False)),
            Bench("ct packed int3 g128", "layers:ct_packed", (3, False)),
            Bench("ct packed int4 g128 asym", "layers:ct_packed", (4, True)),
        ),
    ),
    "f16": Encoding(
        "dense:decode_f16",
        family="Dense",
        goal=0.6,
        cases=(Bench("f16 to bf16", "layers:dense", ("f16",), passthrough="bf16"),),
    ),
    "f32": Encoding(
        "dense:decode_f32",
        family="Dense",
        goal=0.6,
        cases=(Bench("f32 to bf16", "layers:dense", ("f32",), passthrough="bf16"),),
    ),
    "f64": Encoding(
        "dense:decode_f64",
        family="Dense",
        cases=(Bench("f64 to bf16", "layers:dense", ("f64",), passthrough="bf16"),),
    ),
    "folded": Encoding(
        "folded:decode",
        prepare="folded:prepare",
        family="FP4 and FP6",
        goal=0.6,
        cases=(
            Bench("nvfp4 awq", "vendor_layers:nvfp4_awq"),
            Bench("sinq int4 g64", "sinq_layers:sinq"),
        ),
    ),
    "fp4-mx": _FP4(
        "fp4:decode_mx",
        sections="micro:Micro",
        cases=(Bench("mxfp4", "layers:fp4", ("fp4-mx",)),),
    ),
    "fp4-mx-columns": _FP4(
        "fp4:decode_mx_columns",
        sections="micro:Transposed",
        cases=(Bench("mxfp4 gpt-oss", "layers:fp4", ("fp4-mx-columns",)),),
    ),
    "fp4-nv": _FP4(
        "fp4:decode_nv",
        prepare="fp4:prepare_nv",
        sections="micro:Micro",
        cases=(Bench("nvfp4", "layers:fp4", ("fp4-nv",)),),
    ),
    "fp4-nv-pairs": Encoding(
        "fp4_pairs:decode",
        prepare="fp4_pairs:prepare",
        family="FP4 and FP6",
        scales="scale",
        cases=(Bench("nvfp4 of llama-4", "vendor_layers:nvfp4_pairs"),),
    ),
    "fp6-mx": Encoding(
        "fp6:decode_mx",
        family="FP4 and FP6",
        scales="scale",
        sections="micro:Micro",
        goal=0.6,
        cases=(Bench("mxfp6", "layers:fp4", ("fp6-mx",)),),
    ),
    "fp8-divided": Encoding(
        "fp8_divided:decode",
        prepare="fp8_divided:prepare",
        family="FP8",
        scales="scale",
        goal=0.1,  # in numpy: two or three passes
        cases=(Bench("fp8 divided", "vendor_layers:fp8_divided"),),
    ),
    "fp8-e4m3": _FP8(
        "fp8:decode_e4m3",
        cases=(
            Bench("fp8-e4m3 block", "layers:fp8", ("fp8-e4m3", "block"), target=3000),
            Bench("fp8-e4m3 channel", "layers:fp8", ("fp8-e4m3", "channel")),
            Bench("fp8-e4m3 tensor", "layers:fp8", ("fp8-e4m3", "tensor")),
        ),
    ),
    "fp8-e4m3fnuz": _FP8(
        "fp8:decode_e4m3fnuz",
        cases=(Bench("fp8-e4m3fnuz block", "layers:fp8", ("fp8-e4m3fnuz", "block")),),
    ),
    "fp8-e5m2": _FP8(
        "fp8:decode_e5m2",
        cases=(Bench("fp8-e5m2 block", "layers:fp8", ("fp8-e5m2", "block")),),
    ),
    "fp8-e5m2fnuz": _FP8(
        "fp8:decode_e5m2fnuz",
        cases=(Bench("fp8-e5m2fnuz block", "layers:fp8", ("fp8-e5m2fnuz", "block")),),
    ),
    "gptq": Encoding(
        "gptq:decode",
        prepare="gptq:prepare",
        family="GPTQ and AWQ",
        scales="scales",
        sections="sections:grouped",
        goal=0.35,
        cases=(
            Bench("gptq int4 g128", "layers:gptq", (4, False), target=1860),
            Bench("gptq int8 g128", "layers:gptq", (8, False), target=1690),
            Bench("gptq int3 g128", "layers:gptq", (3, False)),
            Bench("gptq int2 g128", "layers:gptq", (2, False)),
            Bench("gptq int4 act-order", "layers:gptq", (4, True)),
        ),
    ),
    "gptq-planar": Encoding(
        "gptq_planar:decode",
        prepare="gptq_planar:prepare",
        family="GPTQ and AWQ",
        scales="scales",
        goal=0.1,  # planes are joined by numpy
        cases=(Bench("gptq int6 planar g128", "repacked_layers:gptq_planar"),),
    ),
    "hqq-axis0": _HQQ(
        "hqq:decode_axis0",
        prepare="hqq:prepare",
        goal=0.35,
        cases=tuple(
            Bench(f"hqq int{bits} axis 0", "layers:hqq", (bits, 0)) for bits in (4, 8, 3, 2, 1)
        ),
    ),
    "hqq-axis1": _HQQ(
        "hqq:decode_axis1",
        prepare="hqq:prepare",
        goal=0.35,
        cases=tuple(
            Bench(f"hqq int{bits} axis 1", "layers:hqq", (bits, 1)) for bits in (4, 8, 3, 2, 1)
        ),
    ),
    "hqq-coded": _HQQ(
        "hqq_coded:decode",
        prepare="hqq_coded:prepare",
        cases=(
            Bench("hqq int4 axis 0 quantised scales", "layers:hqq_coded", (4, 0)),
            Bench("hqq int4 axis 1 quantised scales", "layers:hqq_coded", (4, 1)),
        ),
    ),
    "mlx-affine": Encoding(
        "mlx:decode_affine",
        prepare="mlx:prepare",
        family="MLX",
        scales="scales",
        sections="sections:Affine",
        goal=0.35,
        cases=tuple(
            Bench(f"mlx int{bits} g64", "layers:mlx", (bits,)) for bits in (4, 8, 6, 5, 3, 2)
        ),
    ),
    "onnx-nbits": Encoding(
        "onnx:decode",
        prepare="onnx:prepare",
        family="GPTQ and AWQ",
        scales="weight_scale",
        goal=0.35,
        cases=(Bench("onnx int4 b32", "vendor_layers:onnx_nbits"),),
    ),
    "quanto-bits": Encoding(
        "quanto:decode_bits",
        prepare="quanto:prepare_bits",
        family="HQQ, Quanto and BitNet",
        scales="_scale",
        goal=0.35,
        cases=(
            Bench("quanto int4", "layers:quanto", ("int4",)),
            Bench("quanto int2", "layers:quanto", ("int2",)),
        ),
    ),
    "quanto-bytes": Encoding(
        "quanto:decode_bytes",
        prepare="quanto:prepare_bytes",
        family="HQQ, Quanto and BitNet",
        scales="_scale",
        goal=0.6,
        cases=(
            Bench("quanto int8", "layers:quanto", ("int8",)),
            Bench("quanto float8", "layers:quanto", ("float8",)),
        ),
    ),
    "quark-int4": Encoding(
        "quark:decode_int4",
        prepare="quark:prepare",
        family="GPTQ and AWQ",
        scales="scales",
        goal=0.35,
        cases=(Bench("quark int4 g128", "layers:quark"),),
    ),
    "sparse-24": Encoding(
        "sparse:decode",
        prepare="sparse:prepare",
        family="compressed-tensors",
        scales="scale",
        cases=(Bench("ct sparse 2:4 fp8", "vendor_layers:ct_sparse"),),
    ),
}
ENCODINGS: dict[str, Encoding] = dict(sorted((_OWN | GGML | TORCHAO | VENDOR).items()))
