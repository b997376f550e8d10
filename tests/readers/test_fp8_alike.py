"""FP8 layers that are alike: read once, and never taken for one another."""

from __future__ import annotations

from fp8_parts import F32, resolved

KINDS = [
    ("F8_E4M3", (256, 128), F32, ()),
    ("F8_E4M3", (128, 256), F32, ()),
    ("F8_E4M3", (256, 128), F32, (256, 1)),
    ("F8_E4M3", (256, 128), "BF16", (256, 1)),
    ("F8_E4M3", (128, 256), F32, (1, 2)),
    ("F8_E5M2", (128, 256), F32, (1, 2)),
    ("F8_E4M3", (256, 128), "F8_E8M0", (256, 4)),
]


def test_alike_layers_are_read_once_and_others_by_themselves() -> None:
    parts = [
        part
        for turn in "ab"
        for n, (dtype, shape, scale, grid) in enumerate(KINDS)
        for part in (
            (f"{turn}{n}.weight", dtype, shape),
            (f"{turn}{n}.weight_scale", scale, grid),
        )
    ]
    book = resolved(*parts)
    for n, (dtype, shape, scale, grid) in enumerate(KINDS):
        alone = resolved(("b.weight", dtype, shape), ("b.weight_scale", scale, grid))
        want, first, found = (b.tensors[f"{name}.weight"] for b, name in (
            (alone, "b"), (book, f"a{n}"), (book, f"b{n}")))  # fmt: skip
        for field in ("shape", "scheme", "encoding", "unit_elems", "params", "out_dtype"):
            assert getattr(found, field) == getattr(want, field)
        assert [c.placement for c in found.components] == [c.placement for c in want.components]
        assert [c.stored.name for c in found.components] == [
            f"b{n}.weight",
            f"b{n}.weight_scale",
        ]
        assert found.params is first.params
