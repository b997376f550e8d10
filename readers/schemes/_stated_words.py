"""Words that state a quantisation method: the keys it stands under, and what names none.

`_stated` looks for them wherever tools put them. Keys count in any spelling: in lower case, with
nothing between the words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Keys of a model's configuration whose value is a block, or the name of a method.
KEYS = (
    "compression_config",
    "quant_config",
    "quant_method",
    "quantization",
    "quantization_config",
    "quantization_method",
    "quantize",
    "quantize_config",
)
# Others that tools may come up with: what is quantised, the word, and what is said about it. In
# lower case, with nothing between the words.
PARTS = ("base", "language", "llm", "model", "text", "vision", "weight", "weights")
WORDS = ("quant", "quantisation", "quantised", "quantization", "quantize", "quantized")
ABOUT = (
    *("algo", "algorithm", "args", "cfg", "config", "configuration", "details", "format", "info"),
    *("kind", "kwargs", "meta", "metadata", "method", "mode", "name", "options", "parameters"),
    *("params", "recipe", "scheme", "settings", "spec", "strategy", "type"),
)
_SPELLING = re.compile(f"({'|'.join(PARTS)})?({'|'.join(WORDS)})({'|'.join(ABOUT)})?")
ENDINGS = ("_quant_config", "_quantization_config")  # of a part of the model: text_, vision_, …
_QUANTIZER = "quantizer"  # audio codecs have one too, and it quantises no weights
NAMES = ("quant_method", "method", "qformat_weight")
# Other keys of a block whose text may be a method, where no key tells it better: in lower case,
# with nothing between the words. The vague ones may mean something else in a file of their own,
# and what is only a name may be a label that its author chose: it is a method's if one is known.
# MLX's TurboQuant writes `quantization: {type: turboquant_v1}` and nothing that names it better;
# LM Studio lists models with `quantization: {name: Q4_K_M, bits: 4}`.
_MORE_NAMES = re.compile(
    f"(?:{'|'.join(WORDS)}|q)?(?:algo|algorithm|method|scheme)|(?:{'|'.join(WORDS)})type|quantizer"
)
_VAGUE_NAMES = re.compile(
    f"(?:{'|'.join(WORDS)}|quantizer|method)?(?:approach|format|kind|library|name|technique|tool|type)"
)
_LABEL = "name"
_FIELD = "quant_algo"  # of a block itself a layout's (`_details`)
# What the latter say of any method, of none, or of a container; and of signals (audio codecs).
_VAGUE = re.compile(
    "affine|asym(?:metric)?|auto|block(?:wise)?|channel(?:wise)?|dynamic|float(?:ing)?|"
    "group(?:wise)?|int(?:eger)?s?|linear|mixed.*|per-.*|ptq|qat|scalar|static|sym(?:metric)?|tensor(?:wise)?|uniform|weights?(?:-only)?|"
    ".*-quantized|gem[mv].*|gptq-v[12]|huggingface|llm-?compressor|marlin|optimum.*|pth?|safetensors|transformers|"
    "qdq|qoperator|"  # ONNX Runtime's two ways to write a quantised graph
    "bsq|fsq|ibq|lfq|r?vq|residual-.*|soft-?vq|vae|vector-.*"
)
# How scales are found, and what observers are called: under keys such as `method`, of any layout.
_SEARCH = re.compile(
    "(?:abs|a|min-?|running-?)?max.*|(?:memoryless-|static-)?min-?max.*|(?:awq|gptq|svdquant)-.*|"
    "auto-?(?:quant|smooth.*)|clip.*|ema.*|entropy|fast|full|grid.*|hessian.*|hist.*|kl.*|l[12]|"
    "l[op]-norm|lsq.*|mean.*|moving.*|mse.*|nearest|observer.*|percentile.*|.*round.*|rtn|search.*|"
    "smooth-?quant.*|stochastic|.*observer"
)
_OBSERVED = re.compile("(?:abs-?|a|min-?)?max|entropy|kl|mse|percentile")  # scales, by no more
# What a module's name may be mapped to instead of a method.
_SKIPPED = re.compile(
    "exclude[ds]?|high|ignored?|keep|low|medium|mixed.*|skip(?:ped)?|(?:true|false)|.*[./].*"
)
# Keys of what numbers are stored as, but for those that `_details` holds to be known, and what is
# said there besides formats and words of any method.
_FORMATS = re.compile(
    "(?!(?:checkpoint_|packing_)?format$|data_type$)(?:.*_)?(?:codec|data_?type|dtype|encoding|format|grid|number_format|pack_mode|pack_type|packing|"
    "qscheme|q_scheme|qscheme_.*)"
)
_KNOWN_FORMATS = re.compile(
    r"(?:torch\.)?(?:b?float[0-9]*|double|half|long|short|bool|u?int[0-9]*)(?:-.*)?|(?:awq|gptq|exl[23]|ct)(?:-.*)?|"
    "auto.*|(?:u?e[0-9]m|mx|nv|if[0-9]|bf?[0-9]).*|.*quantized.*|naive.*|sparse.*|tensor.*|channel.*|row.*|column.*|token.*|group.*|"
    "(?:re)?order|compressed.*|nunchaku.*|svdquant.*|mlx|jang.*|gguf.*|fp-quant|llm.*|gem[mv].*|"
    "marlin.*|bitblas|qqq|ipex|exllama.*|(?:a?sym).*|pack.*|nibbles?|paroquant|vptq|fbgemm.*|quark.*"
)
_OF_OTHERS = re.compile(
    "(?:.*_)?(?:act|activations?|cache|calib|calibration|calibrator|data|dataset|datasets|inputs?|kv|"
    "meta|metadata|observer|optim|optimizer|outputs?|producer|search|smooth|softmax|tool)(?:_.*)?"
)
# A number format, which says that something is quantised and not by which method.
NARROW = re.compile(
    r"(?:torch\.)?(?:"
    r"(?:fp|float|f)[468](?![0-9]).*|(?:mx|nv)(?:fp|int)[0-9].*|nf4.*|e[2-5]m[0-3].*|"
    r"u?int[1-8](?![0-9]).*|[iu][248]|w[0-9]+a[0-9]+.*|q[0-9]+(?:_.*)?|ue8m0"
    r")",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    r"[1-8][-_ ]?bits?|(static|dynamic)(_.*)?|(a?sym)(metric)?|true|yes|1", re.IGNORECASE
)
MODELSLIM = re.compile(r"w8a(8|16)(_dynamic|_mix)?", re.IGNORECASE)  # `quantize: w8a8_dynamic`
NOT_STATED = frozenset(
    "0 bf16 bfloat16 default dense f16 f32 false float16 float32 fp16 fp32 full n/a no none null "
    "online original unquant unquantized".split()
) | {""}

# Key -> the method of a block that has it and names none.
TELLING: dict[str, str] = {
    "activation_scheme": "fp8",
    "bnb_4bit_quant_type": "bitsandbytes",
    "config_groups": "compressed-tensors",
    "linear_class": "bitnet",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "model_quant_type": "modelslim",
    "q_group_size": "awq",
    "quant_algo": "modelopt",
    "w_bit": "awq",
    "wbits": "squeezellm",
    "weight_block_size": "fp8",
}
# Other spellings of a method, in lower case with dashes.
_ALIASES: dict[str, str] = {
    "ascend": "modelslim",
    "auto-awq": "awq",
    "auto-gptq": "gptq",
    "auto-round-int8": "w8a8-int8",
    "autoawq": "awq",
    "autogptq": "gptq",
    "autoround": "auto-round",
    "awq-marlin": "awq",
    "bitsandbytes-4bit": "bitsandbytes",
    "bitsandbytes-8bit": "bitsandbytes",
    "blockwise-int8": "w8a8-int8",
    "bnb": "bitsandbytes",
    "bnb.fp4": "bitsandbytes",
    "bnb.fp4-dq": "bitsandbytes",
    "bnb.int8": "bitsandbytes",
    "bnb.nf4": "bitsandbytes",
    "bnb.nf4-dq": "bitsandbytes",
    "cpu-awq": "awq",
    "deepgemm-fp8": "fp8",
    "deepseek-v4-fp8": "fp8",
    "experts-int8": "w8a8-int8",
    "four-over-six": "fouroversix",
    "fp8-e4m3": "fp8",
    "fp8-e5m2": "fp8",
    "fp8-per-block": "fp8",
    "fp8-per-channel": "fp8",
    "fp8-per-tensor": "fp8",
    "gpt-oss-mxfp4": "mxfp4",
    "gptq-bitblas": "gptq",
    "gptq-marlin": "gptq",
    "gptqmodel": "gptq",
    "inc": "auto-round",
    "int8-per-channel-weight-only": "w8a8-int8",
    "jang-affine-mixed": "jang",
    "jang-importance": "jang",
    "minimax-m3-nvfp4": "mxfp8",
    "mlx-q4": "mlx",
    "mlx-q8": "mlx",
    "modelopt-fp4": "modelopt",
    "modelopt-fp8": "modelopt",
    "modelopt-mixed": "modelopt",
    "modelopt-mxfp8": "modelopt",
    "msmodelslim": "modelslim",
    "mxfp-w4a8": "mxfp4",
    "mxfp4-npu": "mxfp4",
    "nunchaku": "svdquant",
    "nvfp4-online": "modelopt",
    "nvfp4-per-token": "modelopt",
    "optimum-quanto": "quanto",
    "petit-nvfp4": "modelopt",
    "ptpc-fp8": "fp8",
    "quark-int4fp8-moe": "quark",
    "quark-mxfp4": "quark",
    "quip#": "quip",
    "quip-sharp": "quip",
    "quipsharp": "quip",
    "tpu-int8": "w8a8-int8",
    "w8a8-fp8": "fp8",
}


def canonical(name: str) -> str:
    """A method's name in the one spelling that the tables here use."""
    text = name.strip().lower().replace("_", "-").rpartition("/")[2]
    return _ALIASES.get(text, text)


def method_of(block: Mapping[str, Any]) -> str:
    """What a block calls its method under `quant_method`, in that spelling; "" for nothing."""
    named = block.get("quant_method")
    return canonical(named[:200]) if isinstance(named, str) else ""


def says_nothing(text: str) -> bool:
    """Whether the text that a key of a method has says that there is none."""
    return canonical(text[:200]) in NOT_STATED


def is_key(key: str, value: object) -> bool:
    """Whether a key states a method, in any of its spellings."""
    text = squeezed(key.rpartition(".")[2])
    if text == _QUANTIZER:
        return isinstance(value, Mapping) and any(k in value for k in ("quant_method", *TELLING))
    whole = squeezed(key).replace(".", "")  # quantization.method
    return any(_SPELLING.fullmatch(one) for one in (text, whole)) or key.endswith(ENDINGS)


def says_little(text: str) -> bool:
    """Whether a text says that something is quantised, and not by which method."""
    return is_format(text) or _VAGUE.fullmatch(canonical(text[:200])) is not None


def tells(name: str, text: str, *, whole_file: bool) -> bool:
    """Whether a key of a block without a method's name has one all the same."""
    key, said = squeezed(name), canonical(text[:200])
    if said in NOT_STATED or is_format(text) or "*" in said or _OBSERVED.fullmatch(said):
        return False  # a pattern is one of modules' names
    vague = not whole_file and _VAGUE_NAMES.fullmatch(key) and not _VAGUE.fullmatch(said)
    return bool(vague or _MORE_NAMES.fullmatch(key))


def is_label(name: str, text: str) -> bool:
    """Whether what a key says may be a label, or prose, as well as a method."""
    return squeezed(name) == _LABEL or " " in text.strip()


def names_layers_method(name: str, text: str, *, in_block: bool) -> bool:
    """Whether a key of a method's block names one, of a layer or beside the block's own.

    Not what observers and searches of scales are called, which are no layouts. A text for a name
    with dots, which is a module's, is a method too, unless it is one of the words for what is left
    alone. `in_block` if the key is in a block inside of the method's.
    """
    key, said = squeezed(name), canonical(text[:200]).partition(":")[0]
    if said in NOT_STATED or is_format(text) or _VAGUE.fullmatch(said) or " " in said:
        return False
    if _SEARCH.fullmatch(said) or (name == _FIELD and not in_block):
        return False
    module = "." in name and _SKIPPED.fullmatch(said) is None
    return module or _MORE_NAMES.fullmatch(key) is not None


def is_unknown_format(name: str, text: str) -> bool:
    """Whether a key of a method's block is about formats or packings, and its text no known one."""
    said = canonical(text[:200])
    other = said in NOT_STATED or is_format(text) or is_of_others(name)
    if _FORMATS.fullmatch(name.lower()) is None or other:
        return False
    return _VAGUE.fullmatch(said) is None and _KNOWN_FORMATS.fullmatch(said) is None


def is_unknown_word(text: str) -> bool:
    """Whether a text is one word, and none of those that formats, searches or methods have."""
    said = canonical(text[:200])
    if said in NOT_STATED or is_format(text) or " " in said:
        return False
    return not any(known.fullmatch(said) for known in (_VAGUE, _SEARCH, _KNOWN_FORMATS))


def is_of_others(name: str) -> bool:
    """Whether a part of a method's block is about something else than how weights are stored."""
    return _OF_OTHERS.fullmatch(name.lower()) is not None


def squeezed(key: str) -> str:
    """A key in lower case, with nothing between the words."""
    return key.lower().replace("_", "").replace("-", "")


def is_format(text: str) -> bool:
    """Whether a text says how wide numbers are, or of which kind, and no method."""
    return any(one.fullmatch(text[:200]) for one in (NARROW, _NUMBERS))
