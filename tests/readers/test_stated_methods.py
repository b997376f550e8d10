"""A method that a configuration names is decoded, harmless by evidence, or refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layer_parts import AWQ, DENSE, FP8
from small_models import Parts, ledger_of, resolved

from anamnesis.errors import UnsupportedError
from anamnesis.readers.schemes import SCHEMES, resolve
from anamnesis.readers.schemes._refused import ALIASES, REFUSED, table
from anamnesis.readers.schemes._stated import FILES, may_state, stated
from anamnesis.readers.schemes._stated_words import canonical

QUIP: Parts = {"m.Qidxs": ("I16", (24, 4)), "m.SU": ("F16", (32,)), "m.SV": ("F16", (24,))}


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("config.json", {"quantization_config": {"quant_method": "foo-bits"}}),
        ("config.json", {"compression_config": {"quant_method": "Foo_Bits"}}),
        ("config.json", {"quantization": {"quant_method": "foo-bits", "bits": 4}}),
        ("config.json", {"quantization": "foo-bits"}),
        ("config.json", {"quantize": "foo-bits"}),
        ("config.json", {"quant_method": "foo-bits"}),
        ("config.json", {"quant_config": {"method": "foo-bits"}}),
        ("config.json", {"quantizationConfig": {"quant_method": "foo-bits"}}),
        ("config.json", {"quant_cfg": {"quant_method": "foo-bits"}}),
        ("config.json", {"quantizer": {"quant_method": "foo-bits"}}),
        ("config.json", {"weight_quantization": {"method": "foo-bits"}}),
        ("config.json", {"weight-quantization": "foo-bits"}),
        ("config.json", {"quant": "foo-bits"}),
        ("config.json", {"quant_type": "foo-bits"}),
        ("config.json", {"quantized": {"method": "foo-bits"}}),
        ("config.json", {"quantization_scheme": "foo-bits"}),
        ("config.json", {"quantisation": "foo-bits"}),
        ("config.json", {"quantization_config": {"quant_type": "foo-bits", "bits": 4}}),
        ("config.json", {"quantization_config": {"algorithm": "foo-bits", "group_size": 64}}),
        ("config.json", {"quantization": {"scheme": "foo-bits", "bits": 4, "group_size": 64}}),
        (
            "config.json",
            {"quantization_config": {"quant_method": "fp8", "x": [{"quant_method": "foo-bits"}]}},
        ),
        (
            "config.json",
            {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"quant_method": "foo-bits"}}}}}}}}},
        ),
        ("config.json", {"text_config": {"quantization_config": {"quant_method": "foo-bits"}}}),
        (
            "config.json",
            {
                "quantization_config": {"quant_method": "fp8"},
                "a": {"b": {"quantization_config": {"quant_method": "foo-bits"}}},
            },
        ),
        ("params.json", {"quantization": {"qformat_weight": "foo-bits"}}),
        ("quantize_config.json", {"quant_method": "foo-bits"}),
        ("quant_config.json", {"quant_method": "foo-bits"}),
        ("hf_quant_config.json", {"quantization": {"quant_method": "foo-bits"}}),
        ("quantization_config.json", {"quant_method": "foo-bits"}),
        ("jang_config.json", {"quantization": {"method": "foo-bits"}}),
        ("quanto_qmap.json", {"method": "foo-bits"}),
        ("quant_model_description.json", {"quant_method": "foo-bits"}),
        ("quantization_map.json", {"method": "foo-bits"}),
        ("my_quant_settings.json", {"quant_method": "foo-bits"}),
        ("generation_config.json", {"quantization_config": {"quant_method": "foo-bits"}}),
        ("generation_config.json", {"quantization": "foo-bits"}),
        ("processor_config.json", {"a": [{"quantization_config": {"method": "foo-bits"}}]}),
        ("args.json", {"model": {"quantization_config": {"quant_method": "foo-bits"}}}),
        ("args.json", {"quant_method": "foo-bits"}),
        ("config.json", {"quantization_config": [{"quant_method": "foo-bits"}]}),
        ("config.json", {"parts": [{"quantization_config": {"quant_method": "foo-bits"}}]}),
        ("config.json", {"quantization_config": {"quant_config": {"quant_method": "foo-bits"}}}),
        ("config.json", {"vision_quantization_config": {"quant_method": "foo-bits"}}),
    ],
)
@pytest.mark.parametrize("parts", [DENSE, AWQ, FP8], ids=["dense", "awq", "fp8"])
def test_an_unknown_method_is_refused_wherever_it_stands(
    file: str, config: Any, parts: Parts
) -> None:
    text = rf"{file}.*\((?i:foo.bits)\): no such method.* \(docs/inputs\.md\)$"
    with pytest.raises(UnsupportedError, match=text):
        resolve(ledger_of(parts, configs={file: config}))


@pytest.mark.parametrize(
    "metadata",
    [
        {"quantization_config": '{"method": "foo-bits", "rank": 32}'},
        {"quant_method": "foo-bits"},
        {"quantizationConfig": '{"quant_method": "foo-bits"}'},
        {"config": '{"quantization_config": {"quant_method": "foo-bits"}}'},
        {"anything": '{"text": {"quantization_config": {"quant_method": "foo-bits"}}}'},
        {"general.quantization": "foo-bits"},
        {"quantization_format": "foo-bits"},
    ],
)
def test_an_unknown_method_is_refused_in_metadata(metadata: dict[str, str]) -> None:
    with pytest.raises(UnsupportedError, match=r"metadata .*\(foo-bits\)"):
        resolve(ledger_of(AWQ, metadata=metadata))


@pytest.mark.parametrize(
    "config",
    [
        {"quantizer": "rvq", "num_quantizers": 8, "quantizer_dropout": 0.5},
        {"quantizer": {"codebook_size": 1024, "method": "rvq"}},
        {"quantize": False, "quant_cfg": None, "quantizationConfig": {}},
    ],
)
def test_settings_of_a_model_that_quantises_signals_state_no_method(config: Any) -> None:
    assert stated({"config.json": config}, {}) == ()


@pytest.mark.parametrize("value", ["int4", "W4A16", "4bit", "nf4", "q4_0", "mxfp4", True, "true"])
def test_a_number_format_is_no_method(value: Any) -> None:
    """Under a key of any spelling: nothing is refused by it, and integers are no dense weights."""
    configs = {"config.json": {"quant_type": value}}
    assert "m.weight" in resolved(DENSE, configs=configs).tensors
    assert "m.weight" in resolved(FP8, configs=configs).tensors
    if value is not True:
        with pytest.raises(UnsupportedError):
            resolved({"m.table": ("I32", (8, 8))}, configs=configs)
    for full in ("bf16", "float16", "none", "FP32"):
        assert stated({"config.json": {"quantization": full, "quant_mode": True}}, {}) == ()


def test_results_and_vocabularies_state_no_method() -> None:
    assert (
        stated({"results.json": {"quantization": "Q4_K_M", "quantize": {"seconds": 3}}}, {}) == ()
    )
    for name in ("tokenizer.json", "vocab.json", "model.safetensors.index.json", "a.txt"):
        assert not may_state(name)
    assert may_state("generation_config.json")


def test_metadata_that_nobody_can_read_is_a_statement_all_the_same() -> None:
    parts: Parts = {"m.weight": ("I8", (8, 8))}
    with pytest.raises(UnsupportedError, match="metadata quantization_config"):
        resolve(ledger_of(parts, metadata={"quantization_config": "{broken"}))


def test_metadata_as_python_writes_it_states_a_method() -> None:
    metadata = {"quantization_config": str({"quant_method": "foo-bits", "bits": 4})}
    with pytest.raises(UnsupportedError, match=r"\(foo-bits\): no such method"):
        resolve(ledger_of(DENSE, metadata=metadata))


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_a_refused_method_is_named_with_its_reason(method: str) -> None:
    row = REFUSED[method]
    if method not in SCHEMES:
        with pytest.raises(UnsupportedError) as caught:
            resolve(ledger_of(DENSE, {"quant_method": method}))
        assert f"({method})" in str(caught.value)
        assert row.title in str(caught.value)
        assert row.tool in str(caught.value)


def test_what_is_refused_is_not_implemented() -> None:
    understood = {method for row in SCHEMES.values() for method in row.methods}
    assert not understood & (set(REFUSED) | set(ALIASES))
    assert set(ALIASES.values()) <= set(REFUSED)
    assert list(REFUSED) == sorted(REFUSED)
    assert list(FILES) == sorted(FILES)
    for method in (*understood, *REFUSED):
        assert canonical(method) == method


@pytest.mark.parametrize("method", ["quip", "QuIP#", "QUIP_SHARP", "org/quip"])
def test_spellings_of_a_method_are_one(method: str) -> None:
    with pytest.raises(UnsupportedError, match=r"QuIP# \(lattice codes"):
        resolved(QUIP, {"quant_method": method})


@pytest.mark.parametrize(
    ("parts", "title"),
    [
        (QUIP, "QuIP#"),
        (
            {"m.trellis": ("I16", (64, 16)), "m.SU": ("F16", (32,)), "m.SV": ("F32", (32,))},
            "QTIP",
        ),
        ({"m.weight": ("I8", (64, 32)), "m.weight_scales": ("F16", (32,))}, "EETQ"),
        (
            {
                "m.qweight": ("I32", (96, 64)),
                "m.zeros": ("F32", (64, 1)),
                "m.scales": ("F32", (64, 1)),
            },
            "GPTQ-for-LLaMa",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_tell_a_refused_method_without_a_configuration(parts: Parts, title: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{title}.* is recognised and not implemented"):
        resolved(parts)


@pytest.mark.parametrize("quantize", ["w4a4_flatquant", "w8a8s", "w4a8_dynamic", "w8a8_foo"])
def test_other_widths_of_modelslim_are_refused_by_name(quantize: str) -> None:
    parts: Parts = {"m.weight": ("I8", (32, 64)), "m.weight_scale": ("F32", (32, 1))}
    with pytest.raises(UnsupportedError, match=quantize):
        resolve(ledger_of(parts, configs={"config.json": {"quantize": quantize}}))


@pytest.mark.parametrize("kind", ["fp4", "int8", "nf4"])
def test_bitsandbytes_kinds_are_formats_to_gptqmodel(kind: str) -> None:
    parts: Parts = {"m.weight": ("I8", (32, 64)), "m.SCB": ("F32", (32,))}
    about = {"quant_method": "bitsandbytes", "format": kind, "checkpoint_format": kind}
    assert resolved(parts, about).tensors["m.weight"].scheme == "bnb-int8"
    with pytest.raises(UnsupportedError, match="'zorp' is a layout of bitsandbytes"):
        resolved(parts, {**about, "format": "zorp"})


FIELDS = ("checkpoint_format", "data_type", "format", "mode", "quant_algo", "version")


@pytest.mark.parametrize("field", [*FIELDS, "fmt"])
@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "compressed-tensors", "hqq", "modelopt"])
def test_an_unknown_value_of_a_field_that_selects_a_layout_is_refused(
    method: str, field: str
) -> None:
    with pytest.raises(UnsupportedError, match=rf"{field}: 'zorp' is a layout of {method}"):
        resolved(FP8, {"quant_method": method, field: "zorp"})


@pytest.mark.parametrize(
    "about",
    [
        *({"data_type": name} for name in ("nf4", "fp4", "mx_fp")),
        {"checkpoint_format": 5},
        {"format": "gptq_v3"},
    ],
)
def test_gptq_of_other_numbers_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="is a layout of gptq"):
        resolved(AWQ, {"quant_method": "gptq", "bits": 4, **about})


@pytest.mark.parametrize(
    "more",
    [{"fmt": "e4m3fnuz"}, {"global_quant_config": {"weight": {"dtype": "fp8_e4m3fnuz"}}}],
)
@pytest.mark.parametrize("method", ["fp8", "quark"])
def test_codes_of_half_the_size_are_not_taken_for_others(method: str, more: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"'m.weight'.* is F8_E4M3, .* says .*e4m3fnuz"):
        resolved(FP8, {"quant_method": method, **more})
    fnuz = {**FP8, "m.weight": ("F8_E4M3FNUZ", FP8["m.weight"][1])}
    assert resolved(fnuz, {"quant_method": method, **more}).tensors["m.weight"].quantised


def test_a_format_of_scales_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="scale_fmt: 'log2' is a layout"):
        resolved(FP8, {"quant_method": "fp8", "scale_fmt": "log2"})
    for known in ("ue8m0", "float32", None):
        resolved(FP8, {"quant_method": "fp8", "scale_fmt": known})


@pytest.mark.parametrize("fmt", ["e5m2", "float8_e5m2"])
def test_eight_bit_floats_are_of_the_kind_that_is_stated(fmt: str) -> None:
    with pytest.raises(UnsupportedError, match=r"'m.weight'.* is F8_E4M3, .* says fmt: .*e5m2"):
        resolved(FP8, {"quant_method": "fp8", "fmt": fmt})
    resolved(FP8, {"quant_method": "fp8", "fmt": fmt.replace("e5m2", "e4m3"), "version": "1.0"})


@pytest.mark.parametrize("value", [None, False, "", "none", {}])
def test_a_configuration_that_states_nothing(value: Any) -> None:
    for key in ("quantization_config", "quantization", "quantize"):
        assert stated({"config.json": {key: value}}, {}) == ()


def test_a_layout_of_another_method_is_decoded_and_noted() -> None:
    book = resolved({**AWQ, **{f"x.{k}": v for k, v in FP8.items()}}, {"quant_method": "awq"})
    assert len(book.notes) == 1
    assert "fp8-tensor" in book.notes[0]
    assert "(awq) speaks of another method" in book.notes[0]
    assert resolved(AWQ, {"quant_method": "awq"}).notes == []


@pytest.mark.parametrize(
    ("about", "value"),
    [
        ({"quant_method": "auto-round", "data_type": "mx_int8"}, "mx_int8"),
        ({"quant_method": "auto-round", "data_type": "nv_fp4_e5m4"}, "nv_fp4_e5m4"),
        (
            {"quant_method": "auto-round", "extra_config": {"m": {"data_type": "mx_uint4"}}},
            "mx_uint4",
        ),
        (
            {"quant_method": "auto-round", "packing_format": "auto_round:mx_uint"},
            "auto_round:mx_uint",
        ),
        (
            {
                "quant_method": "auto-round",
                "packing_format": "auto_round:llm_compressor_nvfp4_e5m4",
            },
            "e5m4",
        ),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v3"}, "gptq_v3"),
        ({"quant_method": "gptq", "format": "paroquant"}, "paroquant"),
        ({"quant_method": "awq", "version": "gemx"}, "gemx"),
        ({"quant_method": "awq", "format": "paroquant"}, "paroquant"),
        ({"quant_method": "compressed-tensors", "format": "foo-quantized"}, "foo-quantized"),
        *(
            (
                {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": one}}},
                "tile",
            )
            for one in ({"strategy": "tile"}, {"actorder": "tile"})
        ),
        ({"quant_method": "modelopt", "quant_algo": "Q3_FOO"}, "Q3_FOO"),
    ],
)
def test_a_layout_that_a_method_names_is_not_taken_for_another(about: Any, value: str) -> None:
    parts: Parts = {"m.weight_packed": ("U8", (32, 32)), "m.weight_scale": ("U8", (32, 2))}
    with pytest.raises(UnsupportedError, match=f"{value}.* is a layout of"):
        resolved(parts, about)


@pytest.mark.parametrize(
    "data_type",
    [
        *("int", "int_sym", "int_asym", "rtn_int_sym", "opt_rtn_int_sym_neuqi", "int_sym_gptq"),
        *("mx_fp", "mx_fp4", "mx_fp4e2m1", "mx_fp8", "nv_fp", "nv_fp4", "nv_fp4_with_static_gs"),
        *("fp", "fp8", "fp8_e4m3", "fp8_e5m2", "block_fp8_sym", "fp8_unit_scale"),
    ],
)
def test_data_types_of_auto_round_that_are_known(data_type: str) -> None:
    resolved(AWQ, {"quant_method": "auto-round", "data_type": data_type, "bits": 4})


def test_layers_that_auto_round_leaves_alone() -> None:
    """What AutoRound 0.16.1 writes of an output layer that it has not quantised."""
    alone = {"bits": 16, "data_type": "float", "act_bits": 16, "act_data_type": "float"}
    about = {"quant_method": "auto-round", "bits": 4, "extra_config": {"lm_head": alone}}
    assert resolved(AWQ, about).notes == []
    with pytest.raises(UnsupportedError, match="is a layout of"):
        resolved(AWQ, {**about, "data_type": "float"})


@pytest.mark.parametrize(
    "packing",
    [
        *("auto_round", "auto_round:auto_gptq", "auto_round:gptq", "auto_round:gptqmodel", "auto"),
        *("auto_round:auto_awq", "auto_round:fp8", "auto_round:fp8_static", "auto_gptq"),
        *("auto_round:llm_compressor", "auto_round:llm_compressor_nvfp4", "auto_round:mx_fp4"),
        *("auto_round:mlx", "mlx"),
    ],
)
def test_packings_of_auto_round_that_are_known(packing: str) -> None:
    about = {"quant_method": "auto-round", "packing_format": packing}
    resolved(FP8, about)


def test_files_beside_the_tensors_are_read(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    import anamnesis

    save_file({"m.weight": np.ones((4, 4), np.float32)}, tmp_path / "model.safetensors")
    anamnesis.inspect(tmp_path)
    for name in (*FILES, "requantized.json", "some-quant-notes.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"quantization": {"quant_method": "foo-bits"}}))
        with pytest.raises(UnsupportedError, match=name):
            anamnesis.inspect(tmp_path)
        path.unlink()
    (tmp_path / "quant_notes.json").write_text('{"by": "somebody"}')
    assert anamnesis.inspect(tmp_path).notes == ()


def test_the_page_has_the_table_of_what_is_refused() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "formats" / "README.md"
    assert table() in page.read_text(), f"docs/formats/README.md wants this table:\n{table()}"


def test_the_page_names_every_place_where_methods_are_stated() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "inputs.md").read_text()
    for name in FILES:
        assert f"`{name}`" in page


def test_what_is_refused_by_name_names_its_page() -> None:
    parts: Parts = {"x.qweight": ("I8", (24, 64)), "x.scales": ("F16", (24, 4))}
    with pytest.raises(UnsupportedError, match=r"BitBLAS of 8 bits.*\(docs/formats/marlin.md\)$"):
        resolved(parts, {"quant_method": "bitblas", "bits": 8})
