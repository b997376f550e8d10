"""libmtmd, llama.cpp's library of towers, loads what `--mmproj` writes, and computes with it."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp_module import llama_cpp_or_skip
from llama_folder import add_tokenizer

import anamnesis

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("gguf")
llama_cpp = llama_cpp_or_skip()
mtmd = pytest.importorskip("llama_cpp.mtmd_cpp")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # the libraries' own, on import
    pytest.mark.timeout(600),
]
SIDE, BREAK = 56, 5  # pixels, and the id that `[IMG_BREAK]` gets
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "eos_token_id": 0,
}
VISION: dict[str, Any] = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": SIDE,
    "patch_size": 14,
    "hidden_act": "silu",
}


def pixtral(path: Path) -> tuple[Path, Any]:
    """A folder of a tiny Pixtral, and its embeddings."""
    torch.manual_seed(0)
    made = transformers.LlavaForConditionalGeneration
    model = made(made.config_class(text_config=TEXT, vision_config=VISION)).float()
    model.save_pretrained(path)
    add_tokenizer(path, 299, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    settings = {"added_tokens_decoder": {str(BREAK): {"content": "[IMG_BREAK]"}}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|end|>"}))
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path, model.get_input_embeddings().weight.detach().numpy()


def encoded(text: Path, tower: Path) -> Any:
    """What libmtmd makes of an image: a row of the text model's width for each token."""
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.use_mmap = settings.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(str(text).encode(), settings)
    assert model, "the text model was not loaded"
    own = mtmd.mtmd_context_params_default()
    own.use_gpu, own.n_threads = False, 1
    context = mtmd.mtmd_init_from_file(str(tower).encode(), model, own)
    assert context, "the tower was not loaded"
    pixels = (np.arange(SIDE * SIDE * 3) * 37 % 251).astype(np.uint8).tobytes()
    data = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    image = mtmd.mtmd_bitmap_init(SIDE, SIDE, data)
    marker = mtmd.mtmd_default_marker()
    words = mtmd.mtmd_input_text()
    words.text, words.text_len = marker, len(marker)
    words.add_special, words.parse_special = False, True
    chunks = mtmd.mtmd_input_chunks_init()
    images = (mtmd.mtmd_bitmap_p_ctypes * 1)(image)
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(words), images, 1) == 0
    pieces = [
        mtmd.mtmd_input_chunks_get(chunks, n) for n in range(mtmd.mtmd_input_chunks_size(chunks))
    ]
    chunk = next(piece for piece in pieces if mtmd.mtmd_input_chunk_get_type(piece))
    assert mtmd.mtmd_encode_chunk(context, chunk) == 0
    count = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
    width = llama_cpp.llama_model_n_embd(model)
    found = mtmd.mtmd_get_output_embd(context)
    rows = np.ctypeslib.as_array(found, shape=(count * width,)).copy().reshape(count, width)
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(image)
    mtmd.mtmd_free(context)
    llama_cpp.llama_model_free(model)
    return rows


def test_pixtral_s_rows_of_patches_end_with_the_embedding_of_a_break(tmp_path: Path) -> None:
    folder, embeddings = pixtral(tmp_path / "hf")
    text, tower = tmp_path / "model.gguf", tmp_path / "mmproj.gguf"
    anamnesis.convert(folder, text, to="gguf", dtype="f32")
    anamnesis.convert(folder, tower, to="gguf", names="mmproj", dtype="f32")
    rows = encoded(text, tower)
    assert rows.shape == (4 * 4 + 3, 64)  # four rows of four patches, and what lies between them
    assert np.isfinite(rows).all()
    for row in (4, 9, 14):
        assert np.array_equal(rows[row], embeddings[BREAK])
