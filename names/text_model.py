"""The class of the text model that a configuration describes: by itself, or inside of a whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from anamnesis.names.config_rows import CLASSES
from anamnesis.names.settings import class_name, text_block

# Multimodal classes whose text model is of any class; one without a name is told by its type.
_OF_ANY_CLASS = (
    "AudioFlamingo3ForConditionalGeneration",
    "AyaVisionForConditionalGeneration",
    "GraniteSpeechForConditionalGeneration",
    "GraniteSpeechPlusForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "JanusForConditionalGeneration",
    "LightOnOCRForConditionalGeneration",
    "LightOnOcrForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "MiniCPMV4_6ForConditionalGeneration",
    "Qwen2AudioForConditionalGeneration",
    "VipLlavaForConditionalGeneration",
    "VoxtralForConditionalGeneration",
)
# Those whose text model has rows of its own, whatever its block names.
_OWN_ROWS = ("Exaone4_5_ForConditionalGeneration",)
# Those whose settings stand beside the tower's, and whose text model is another class's.
_AS = {"DotsOCRForCausalLM": "Qwen2ForCausalLM"}
_BY_TYPE = {("Mistral3ForConditionalGeneration", "mistral4"): "Mistral4ForCausalLM"}


def text_class(config: Mapping[str, Any], known: Collection[str]) -> str:
    """The class whose rows a configuration's text model has; "" where none is named.

    Of a multimodal model it is the class that the text model's block names, if it is `known`, or
    that of its `model_type`.
    """
    whole, block = class_name(config), text_block(config)
    named, kind = class_name(block), str(block.get("model_type"))
    if named in known and whole not in _OWN_ROWS:
        return named
    if whole in _OF_ANY_CLASS and block:
        return next(
            (n for n, row in CLASSES.items() if row.model_type == kind and n in known), kind
        )
    return _BY_TYPE.get((whole, kind)) or _AS.get(whole, whole)
