"""Write the seeds, `corpus/TARGET/NAME`: small files that use every part of each format.

`python tests/fuzz/make_corpus.py`; the files are the same wherever it runs.
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import layer_seeds
import names_targets
import record_targets
from gguf_parts import Parts, Tensor, write_parts
from zip_parts import ZIP64, Member, write_zip

from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.gguf_types import GGML_TYPES
from anamnesis.writers import arrow
from anamnesis.writers.base import Item, Storage
from anamnesis.writers.part import PartFile

HERE = Path(__file__).resolve().parent
Entry = tuple[str, list[int]]


def safetensors(
    entries: dict[str, Entry], metadata: dict[str, str] | None = None, **values: bytes
) -> bytes:
    """Tensors of zeros, or of the `values` of their names."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape) in entries.items():
        bits = int(dtype.split("_")[0].lstrip("BFIUCOL") or 8)
        for length in shape:
            bits *= length
        part = values.get(name, bytes(bits // 8))
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(part)],
        }
        data += part
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_seeds() -> dict[str, bytes]:
    state = json.dumps(
        {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4, 32]}
    ).encode()
    return {
        "dense": safetensors(
            {"a": ("F32", [2, 3]), "b": ("BF16", []), "c": ("I64", [0, 3]), "ü": ("BOOL", [3])},
            {"format": "pt"},
        ),
        "fp8": safetensors(
            {
                "m.weight": ("F8_E4M3", [4, 8]),
                "m.weight_scale": ("F32", [4, 1]),
                "n.weight": ("F8_E5M2", [2, 2]),
                "n.weight_scale_inv": ("F32", [1, 1]),
                "n.input_scale": ("F32", []),
            }
        ),
        "gptq": safetensors(
            {
                "m.qweight": ("I32", [4, 8]),
                "m.qzeros": ("I32", [1, 1]),
                "m.scales": ("F16", [1, 8]),
                "m.g_idx": ("I32", [32]),
            }
        ),
        "awq": safetensors(
            {
                "m.qweight": ("I32", [32, 1]),
                "m.qzeros": ("I32", [1, 1]),
                "m.scales": ("F16", [1, 8]),
            }
        ),
        "nf4": safetensors(
            {
                "w": ("U8", [64, 1]),
                "w.absmax": ("F32", [2]),
                "w.quant_map": ("F32", [16]),
                "w.quant_state.bitsandbytes__nf4": ("U8", [len(state)]),
            },
            **{"w.quant_state.bitsandbytes__nf4": state},
        ),
        "int8": safetensors({"m.weight": ("I8", [2, 4]), "m.SCB": ("F32", [2])}),
    }


def gguf_seeds() -> dict[str, bytes]:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    every_kind = [
        (f"k{kind}".encode(), kind, bytes((1,) * n))
        for kind, n in {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}.items()
    ]
    pairs = [
        (b"general.architecture", 8, text("llama")),
        (b"general.alignment", 4, struct.pack("<I", 64)),
        (b"tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("é")),
    ]
    nested = struct.pack("<IQIQ", 9, 1, 4, 2) + bytes(8)
    plain = [Tensor(b"f", (3, 2), 0, 0), Tensor(b"h", (4,), 1, 0), Tensor(b"e", (0, 2), 0, 0)]
    blocks = [
        Tensor(kind.name.encode(), (kind.block_elems, 1), number, 0)
        for number, kind in sorted(GGML_TYPES.items())
        if 32 <= kind.block_elems <= 64 and kind.rows == 1
    ]
    forks = [
        Tensor(kind.name.encode(), (kind.block_elems, 2), number, 0)
        for number, kind in sorted(GGML_TYPES.items())
        if (kind.tail or number > 100) and kind.rows == 1  # bitnet.cpp and ik_llama.cpp
    ]
    repacked = [
        Tensor(kind.name.encode(), (kind.block_elems, kind.rows), number, 0)
        for number, kind in sorted(GGML_TYPES.items())
        if kind.rows > 1
    ]
    return {
        "forks": write_parts(Parts(3, [], forks, b"")),
        "repacked": write_parts(Parts(3, [], repacked, b"")),
        "kinds": write_parts(Parts(3, every_kind, plain[:1], b"")),
        "values": write_parts(Parts(3, pairs, plain, b"")),
        "blocks": write_parts(Parts(3, [], blocks, b"")),
        "nested": write_parts(Parts(3, [(b"n", 9, nested)], plain[:1], b"")),
        "version2": write_parts(Parts(2, pairs[:1], [Tensor(b"q", (256, 1), 12, 0)], b"")),
        "split": write_parts(
            Parts(
                3,
                [
                    (b"split.no", 2, b"\0\0"),
                    (b"split.count", 2, b"\1\0"),
                    (b"split.tensors.count", 5, b"\1\0\0\0"),
                ],
                plain[:1],
                b"",
            )
        ),
    }


def npy(descr: str, shape: str, data: bytes, fortran: bool = False, version: int = 1) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    form, at = ("<H", 10) if version == 1 else ("<I", 12)
    text += " " * (-(at + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack(form, len(text)) + text.encode() + data


def archive(members: Iterable[tuple[str, bytes]], method: int = 0, flags: int = 0) -> bytes:
    made = []
    for name, plain in members:
        member = Member(name.encode(), b"", method, flags)
        member.fill(plain)
        made.append(member)
    return write_zip(made)


def npz_seeds() -> dict[str, bytes]:
    arrays = [
        ("a.npy", npy("<f4", "(2, 3)", bytes(24))),
        ("b.npy", npy(">f8", "(3, 2)", bytes(48), fortran=True)),
        ("c.npy", npy("<V2", "()", bytes(2), version=2)),
    ]
    wide = Member(b"w.npy", b"", local_extra=ZIP64)
    wide.fill(npy("|b1", "(5,)", bytes(5), version=3))
    return {
        "stored": archive(arrays),
        "deflated": archive(arrays, method=8),
        "described": archive(arrays[:2], method=8, flags=8),
        "zip64": write_zip([wide]),
        "others": archive([*arrays[:1], ("note.txt", b"text"), ("raw", arrays[0][1])]),
    }


def pickles(b: Any, legacy: bool) -> dict[str, bytes]:
    """Objects as torch.save writes them, each over storages "0" (16 bytes) and "1" (8)."""
    view = {"view": None} if legacy else {}
    one, half = b.storage(**view), b.storage("1", 4, "HalfStorage", **view)
    strided = b.tensor(one, (2, 2), (1, 2))
    parameter = b.call(
        b.global_("torch._utils", "_rebuild_parameter"), b.tensor(half), b"\x89", b.HOOKS
    )
    nested = b.dict_({"state_dict": b.dict_({"w": strided, "p": parameter}), "epoch": b.value(3)})
    ordered = b.HOOKS + b"(" + b.value("w") + b.tensor(one) + b.value("h") + b.tensor(half) + b"u"
    meta = b"}" + b.value("version") + b.value(1) + b"s"
    built = ordered + b"}" + b.value("_metadata") + meta + b"sb"
    listed = b.dict_({"l": b.list_(strided, b.tensor(half)), "n": b.value(None), "f": b.value(0.5)})
    cls, bf16 = b.global_("torchao.x", "Int8Tensor"), b.global_("torch", "bfloat16")
    wrapper = b.call(
        b.global_("torch._tensor", "_rebuild_from_type_v2"),
        b.global_("torch._utils", "_rebuild_wrapper_subclass"),
        cls,
        b.tuple_(cls, bf16, b.value((1, 4)), b.value((4, 1))),
        b.dict_({"qdata": b.tensor(half), "block_size": b.value((1, 4)), "scale": b.tensor(one)}),
    )
    return {
        "plain": b.dict_({"w": b.tensor(one), "h": b.tensor(half)}),
        "nested": nested,
        "ordered": built,
        "listed": listed,
        "torchao": b.dict_({"w": wrapper, "h": b.tensor(half)}),
    }


def pth_seeds() -> dict[str, bytes]:
    import pth_bytes as b

    seeds = {}
    for number, (name, top) in enumerate(pickles(b, legacy=False).items()):
        order = [("byteorder", (b"little", b"big")[number % 2])] if number else []
        inner = [("data.pkl", b.pickled(top)), ("data/0", b.DATA), ("data/1", bytes(8)), *order]
        members = [(f"m/{path}", data) for path, data in (*inner, ("version", b"3\n"))]
        seeds[name] = archive(members, method=8 if name == "listed" else 0)
    return seeds


def legacy_seeds() -> dict[str, bytes]:
    import pth_bytes as b

    seeds = {
        name: b.legacy(top, [("0", 4, b.DATA), ("1", 4, bytes(8))])
        for name, top in pickles(b, legacy=True).items()
    }
    return seeds | {"pickle": pickle.dumps({"w": [1, 2.5, "text", None, True, (1,)]}, protocol=4)}


def json_seeds() -> dict[str, bytes]:
    index = {
        "metadata": {"total_size": 24},
        "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"},
    }
    return {
        "index": json.dumps(index).encode(),
        "values": b'{"a": [1, -2.5e3, true, null, "\\u00e9\\n\\"\\\\"], "b": {"c": {}}, "": []}',
        "config": b'{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}}',
    }


def yaml_seeds() -> dict[str, bytes]:
    whole = """\
inputs: [models/*.gguf, "a b"]
output: {path: out, format: arrow, dtype: f32, max_shard_size: 5GB, overwrite: true}
select:
  include: ['*.weight']
  exclude: []
numbers: {rounding: reference, passthrough: bf16, assume_unit_scale: false}
run: {executor: distributed, threads: 4, memory: 512MiB, scheduler: tcp://host:8786}
limits: {max_items: 1000, max_single_alloc: 1GiB, max_total_bytes: null, max_expansion_ratio: 10}
"""
    block = "# comment\ninputs:\n  - >-\n    folded\n    path\noutput:\n  path: |\n    out\n"
    return {
        "whole": whole.encode(),
        "small": b"inputs: [a]\noutput: {path: o}\n",
        "block": block.encode(),
        "scalars": b'inputs: [0x10, 1e3, .inf, ~, NO, "\\u00e9", 2024-01-01, 1:30, 010, -0]\n',
    }


def arrow_seeds() -> dict[str, bytes]:
    """What our own sink writes; other people's files are refused by their schema."""
    items = [
        Item("a", (3, 2), "BF16", 6),
        Item("ü", (2,), "F32", 2),
        Item("s", (), "I64", 1),
        Item("e", (0, 2), "F32", 0),
    ]
    seeds = {}
    for codec in ("none", "lz4", "zstd"):
        chosen = items if codec == "none" else items[:2]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.arrow"
            layout = arrow.layout(chosen, path, 1, Storage(codec))
            part = PartFile(layout.files[0])
            with part.part.open("r+b") as file:
                for item, (_, slot) in zip(chosen, layout.places, strict=True):
                    nbytes = item.elems * DTYPES[item.dtype].bits // 8
                    slot.write(file.fileno(), 0, bytes(range(nbytes)))
            part.commit(arrow)
            seeds["plain" if codec == "none" else codec] = path.read_bytes()
    return seeds


def _onnx(graph: Any) -> bytes:
    """A model of a stated version, so that every release of onnx writes the same."""
    from onnx import helper

    domains = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def onnx_seeds() -> dict[str, bytes]:
    """Golden files, and one whose numbers are its own bytes as external data."""
    from onnx import TensorProto, helper

    entry = TensorProto(name="a", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "m.onnx"), ("offset", "4"), ("length", "8")):
        entry.external_data.add(key=key, value=value)
    typed = [
        helper.make_tensor("f", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("d", TensorProto.DOUBLE, [1], [1.0]),
        helper.make_tensor("i", TensorProto.INT64, [2], [1, 2]),
    ]
    node = helper.make_node("Constant", [], ["c"], value=typed[0])
    graph = helper.make_graph([node], "g", [], [], [entry, *typed])
    golden = HERE.parent / "data" / "onnx"
    return {
        "branches": (golden / "branches.onnx").read_bytes(),
        "contrib": (golden / "contrib.onnx").read_bytes(),
        "dynamic": (golden / "dynamic.onnx").read_bytes(),
        "linear": (golden / "linear.onnx").read_bytes(),
        "nbits": (golden / "cases.onnx").read_bytes(),
        "qlinear": (golden / "qlinear.onnx").read_bytes(),
        "typed": _onnx(graph),
    }


def imatrix_seeds() -> dict[str, bytes]:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def entry(name: bytes, calls: int, *sums: float) -> bytes:
        head = struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(sums))
        return head + struct.pack(f"<{len(sums)}f", *sums)

    entries = entry(b"output.weight", 4, 1.0, 2.5) + entry(b"blk.0.attn_q.weight", 0, 3.0)
    pairs = [
        (b"general.type", 8, text("imatrix")),
        (b"imatrix.datasets", 9, struct.pack("<IQ", 8, 1) + text("calibration.txt")),
        (b"imatrix.chunk_count", 4, struct.pack("<I", 7)),
        (b"imatrix.chunk_size", 4, struct.pack("<I", 512)),
    ]
    tensors = [
        Tensor(b"blk.0.ffn_up_exps.weight.in_sum2", (3, 2), 0, 0),
        Tensor(b"blk.0.ffn_up_exps.weight.counts", (1, 2), 0, 0),
        Tensor(b"blk.0.ffn_up_exps.weight.in_sum", (3, 2), 0, 0),
    ]
    return {
        "gguf": write_parts(Parts(3, pairs, tensors, struct.pack("<24f", *[2.0] * 24))),
        "legacy": struct.pack("<i", 2) + entries + struct.pack("<ii", 7, 3) + b"txt",
        "old": struct.pack("<i", 2) + entries,
    }


SEEDS = {
    "arrow": arrow_seeds,
    "gguf": gguf_seeds,
    "imatrix": imatrix_seeds,
    "json": json_seeds,
    "layers": layer_seeds.seeds,
    "npz": npz_seeds,
    "onnx": onnx_seeds,
    "pth": pth_seeds,
    "pth-legacy": legacy_seeds,
    "safetensors": safetensors_seeds,
    "yaml": yaml_seeds,
    **names_targets.SEEDS,
    **record_targets.SEEDS,
}


def write_corpus(folder: Path = HERE / "corpus") -> None:
    """Write all seeds under `folder`."""
    for target, make in SEEDS.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in make().items():
            (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    # For `benchmarks` and `pth_bytes`.
    sys.path += [str(HERE.parents[1]), str(HERE.parent / "data" / "pth")]
    write_corpus()
