"""The rows of torchao's layouts in the table of encodings; sorted by name."""

from __future__ import annotations

from anamnesis.kernels._row import Bench, Encoding

TORCHAO: dict[str, Encoding] = {
    "torchao-int4": Encoding(
        "torchao:decode_int4",
        family="torchao",
        scales="scale",
        goal=0.35,
        cases=(Bench("torchao int4 g128", "torchao_layers:int4"),),
    ),
    "torchao-int4-plain": Encoding(
        "torchao_plain:decode",
        prepare="torchao_plain:prepare",
        family="torchao",
        scales="scale",
        goal=0.0,
        cases=(Bench("torchao int4 of an xpu", "torchao_layers:int4_plain"),),
    ),
    "torchao-mxfp4-tiles": Encoding(
        "torchao:decode_tiled_mx",
        family="torchao",
        scales="scale",
        goal=0.35,
        cases=(Bench("torchao mxfp4 tiles", "torchao_layers:tiles", ("mxfp4",)),),
    ),
    "torchao-mxfp8-e4m3-tiles": Encoding(
        "torchao:decode_tiled_e4m3",
        prepare="torchao:prepare_tiles",
        family="torchao",
        scales="scale",
        goal=0.6,
        cases=(Bench("torchao mxfp8-e4m3 tiles", "torchao_layers:tiles", ("mxfp8-e4m3",)),),
    ),
    "torchao-mxfp8-e5m2-tiles": Encoding(
        "torchao:decode_tiled_e5m2",
        prepare="torchao:prepare_tiles",
        family="torchao",
        scales="scale",
        goal=0.6,
        cases=(Bench("torchao mxfp8-e5m2 tiles", "torchao_layers:tiles", ("mxfp8-e5m2",)),),
    ),
    "torchao-nvfp4-tiles": Encoding(
        "torchao:decode_tiled_nv",
        prepare="fp4:prepare_nv",
        family="torchao",
        scales="scale",
        goal=0.35,
        cases=(Bench("torchao nvfp4 tiles", "torchao_layers:tiles", ("nvfp4",)),),
    ),
    "torchao-tinygemm": Encoding(
        "torchao_tiles:decode",
        family="torchao",
        scales="scale_and_zero",
        goal=0.2,
        cases=(Bench("torchao tinygemm", "torchao_layers:int4_tiles"),),
    ),
}
