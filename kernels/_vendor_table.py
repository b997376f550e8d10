"""The rows of layouts that one kernel or one tool has to itself; sorted by name."""

from __future__ import annotations

from anamnesis.kernels._row import Bench, Encoding

VENDOR: dict[str, Encoding] = {
    "aqlm": Encoding(
        "aqlm:decode",
        prepare="aqlm:prepare",
        family="AQLM",
        scales="scales",
        cases=(Bench("aqlm 2x8 g8", "vendor_layers:aqlm"),),
    ),
    "comfy-w4a8": Encoding(
        "w4a8:decode",
        prepare="w4a8:prepare",
        family="ModelOpt and ComfyUI INT4",
        scales="channel",
        goal=0.2,
        cases=(Bench("comfy w4a8", "vendor_layers:comfy_w4a8"),),
    ),
    "exl2": Encoding(
        "exl2:decode",
        prepare="exl2:prepare",
        family="GPTQ and AWQ",
        scales="scale_max",
        goal=0.1,  # columns are put into rows one number at a time
        cases=(Bench("exl2 5 and 4 bits", "vendor_layers:exl2"),),
    ),
    "exl3": Encoding(
        "exl3:decode",
        prepare="exl3:prepare",
        family="EXL3",
        scales="svh",
        cases=(
            Bench("exl3 4 bits", "vendor_layers:exl3", (4, "3inst")),
            Bench("exl3 3 bits mul1", "vendor_layers:exl3", (3, "mul1")),
        ),
    ),
    "fouroversix": Encoding(
        "fouroversix:decode",
        prepare="fouroversix:prepare",
        family="FP4 and FP6",
        scales="scale",
        goal=0.0,
        cases=(Bench("four over six nvfp4", "vendor_layers:fouroversix"),),
    ),
    "gptq-zeros": Encoding(
        "gptq_zeros:decode",
        family="GPTQ and AWQ",
        scales="scales",
        goal=0.0,
        cases=(Bench("gptq-for-llama int4", "vendor_layers:gptq_zeros"),),
    ),
    "int4-pairs": Encoding(
        "int4:decode_pairs",
        prepare="int4:prepare",
        family="ModelOpt and ComfyUI INT4",
        scales="weight_scale",
        cases=(Bench("modelopt int4 g128", "vendor_layers:modelopt_int4"),),
    ),
    "int4-rows": Encoding(
        "int4:decode_rows",
        prepare="int4:prepare",
        family="ModelOpt and ComfyUI INT4",
        scales="weight_scale",
        cases=(Bench("comfy int4", "vendor_layers:comfy_int4"),),
    ),
    "marlin": Encoding(
        "marlin:decode",
        prepare="ct:prepare",
        family="GPTQ and AWQ",
        scales="s",
        goal=0.0,
        cases=(Bench("marlin int4 g128", "vendor_layers:marlin"),),
    ),
    "marlin-24": Encoding(
        "marlin_24:decode",
        prepare="ct:prepare",
        family="GPTQ and AWQ",
        scales="scales",
        goal=0.0,
        cases=(Bench("marlin-24 int4 g128", "vendor_layers:marlin_24"),),
    ),
    "nunchaku": Encoding(
        "nunchaku:decode",
        prepare="nunchaku:prepare",
        family="ModelOpt and ComfyUI INT4",
        scales="scale",
        goal=0.0,
        cases=(
            Bench("nunchaku int4 r32", "vendor_layers:nunchaku", (False,)),
            Bench("nunchaku nvfp4 r32", "vendor_layers:nunchaku", (True,)),
        ),
    ),
    "onnx-linear": Encoding(
        "onnx_linear:decode",
        prepare="onnx_linear:prepare",
        family="GPTQ and AWQ",
        scales="scale",
        goal=0.0,
        cases=(
            Bench("onnx int8 dq axis 1", "vendor_layers:onnx_linear", ("U8",)),
            Bench("onnx int4 dq b32", "vendor_layers:onnx_linear", ("U4",)),
        ),
    ),
    "qqq": Encoding(
        "qqq:decode",
        prepare="ct:prepare",
        family="GPTQ and AWQ",
        scales="s_channel",
        goal=0.0,
        cases=(Bench("qqq int4 g128", "vendor_layers:qqq"),),
    ),
    "sinq-aux": Encoding(
        "sinq:decode",
        prepare="sinq:prepare",
        family="HQQ, Quanto and BitNet",
        scales="scale",
        goal=0.0,
        cases=(Bench("sinq int4 quantaux", "vendor_layers:sinq_aux"),),
    ),
    "sinq-words": Encoding(
        "sinq_words:decode",
        prepare="sinq_words:prepare",
        family="HQQ, Quanto and BitNet",
        scales="scale",
        goal=0.0,
        cases=(Bench("sinq int5", "vendor_layers:sinq_words"),),
    ),
    "svdquant": Encoding(
        "svdquant:decode",
        prepare="svdquant:prepare",
        family="ModelOpt and ComfyUI INT4",
        scales="scale",
        goal=0.0,
        cases=(
            Bench("comfy awq w4a16", "vendor_layers:comfy_awq"),
            Bench("comfy svdquant", "vendor_layers:comfy_svdquant"),
        ),
    ),
    "vptq": Encoding(
        "vptq:decode",
        prepare="vptq:prepare",
        family="VPTQ",
        scales="weight_scale",
        goal=0.2,
        cases=(Bench("vptq v8 256+256", "vendor_layers:vptq"),),
    ),
}
