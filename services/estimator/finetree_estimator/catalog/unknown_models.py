# SPDX-License-Identifier: Apache-2.0
"""Why a model that the catalogue does not have is none that this suite knows of, as far as its name tells."""

import re

_QUANTISED = r"gptq|awq|exl2|gguf|fp8|nvfp4|mxfp4|bnb|\d-?bit|int[48]|q[2-8]_[k0]"
_ENCODERS = (
    r"(al|distil|mobile|tiny|modern|camem)?bert|(ro|de)berta|electra|minilm|mpnet|bge|gte|e5|embed(dings?)?|reranker"
)
_ENCODER_DECODERS = r"(flan-|code|by|m)?t5|bart|pegasus|marian|nllb|opus-mt"
_SENSES = r"vl|vision|llava|pixtral|idefics|clip|vit|diffusion|sdxl|flux|whisper|wav2vec|tts"
_CLOSED = r"gpt-?[345]o?|chatgpt|o[134](-mini)?|claude|gemini|davinci"

_TRAINED = "only models that read and write text, token by token, are trained here"
_HINTS = (
    (
        rf"(^|.*[-_./ ])({_QUANTISED})",
        "it is quantised already: name its 16-bit original, which QLoRA quantises itself",
    ),
    (rf"(^|.*/)({_CLOSED})([-_. ]|$)", "its weights are not public: its provider alone tunes it"),
    (rf"(sentence-transformers/|(.*[-_./ ])?({_ENCODERS})([-_. \d]|$))", f"an encoder, as it seems: {_TRAINED}"),
    (rf"(^|.*[-_/ ])({_ENCODER_DECODERS})([-_. ]|$)", f"an encoder and decoder, as it seems: {_TRAINED}"),
    (rf"(^|.*[-_./ ])({_SENSES})([-_. \d]|$)", f"a model of images or sounds, as it seems: {_TRAINED}"),
)


def hint(name: str) -> str:
    """What is wrong with a model by its name, for people; empty where that tells nothing."""
    return next((text for pattern, text in _HINTS if re.match(pattern, name.lower())), "")
