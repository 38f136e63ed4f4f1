# SPDX-License-Identifier: Apache-2.0
"""Checks that a folder holds a base model that can be trained, before its weights are loaded or even downloaded."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from finetree_worker.errors import ModelError, PlanError
from finetree_worker.models.auto_class import auto_name

INDEX = "model.safetensors.index.json"
"""Name of the index that names the file of each tensor of a sharded model."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of weights that are Python pickles: reading one runs the code in it."""
_WEIGHTS = frozenset({"F64", "F32", "F16", "BF16"})
"""Number formats of weights that can be trained, in safetensors' names."""
_ATTENTION_KEYS = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")
"""Keys of a config.json whose value may name a repository of kernels (transformers 4.53 and newer)."""
_SHOWN = 3  # names that a message lists


def check_config(folder: Path) -> None:
    """Check that the configuration names an architecture of transformers itself, with unquantized weights.

    Raises ModelError: MODEL_UNREADABLE, MODEL_REMOTE_CODE, MODEL_IS_ADAPTER, MODEL_ARCHITECTURE_UNSUPPORTED,
    MODEL_QUANTIZED.
    """
    config = _json(folder / "config.json")
    kind = str(config.get("model_type", ""))
    if not auto_name(kind):
        # Where transformers has the architecture, it is used, and code beside the weights is ignored.
        if config.get("auto_map"):
            raise _wrong(
                folder,
                "MODEL_REMOTE_CODE",
                f"needs its own code (auto_map) for its architecture {kind!r}, and code of models is never run",
                remedy="Use a model whose architecture transformers itself has.",
            )
        raise _wrong(
            folder,
            "MODEL_ARCHITECTURE_UNSUPPORTED",
            f"has the architecture {kind!r}, which is neither a causal language model of transformers nor one "
            "with images that is trained",
            remedy="Use a decoder-only language model, or one with images that docs/models.md names.",
        )
    _refuse_injections(folder, config)
    quantized = config.get("quantization_config")
    if quantized:
        named = quantized.get("quant_method", "") if isinstance(quantized, dict) else ""
        raise _wrong(
            folder,
            "MODEL_QUANTIZED",
            f"is stored quantized ({str(named)[:40] or 'quantization_config'})",
            remedy="Name the model that it was made from; the method qlora quantizes it itself.",
        )


def _refuse_injections(folder: Path, config: dict[str, Any]) -> None:
    """Refuse what transformers would add to the model without a word: an adapter beside it, a kernel from a hub."""
    if (folder / "adapter_config.json").is_file():
        raise _wrong(
            folder,
            "MODEL_IS_ADAPTER",
            "has an adapter beside its weights (adapter_config.json), which would be loaded into it",
            remedy="Move adapter_config.json out of the folder; or merge the adapter first, if it is wanted.",
        )
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in _ATTENTION_KEYS:
            named = part.get(key)
            if isinstance(named, str) and "/" in named:
                raise _wrong(
                    folder,
                    "MODEL_REMOTE_CODE",
                    f"names a hub's attention kernel ({key}: {named[:60]!r}), and code of a hub is never run",
                    remedy=f"Remove {key} from its config.json.",
                )


def check_weights(folder: Path) -> set[str]:
    """Check that the weights are whole safetensors files of numbers that can be trained; only headers are read.

    Returns the number formats of the weights in the files' names: "BF16", "F32".

    Raises ModelError: MODEL_PICKLED, MODEL_INCOMPLETE, MODEL_UNREADABLE, MODEL_DTYPE_UNSUPPORTED.
    """
    found: set[str] = set()
    types: set[str] = set()
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as stored:
                names = list(stored.keys())
                found.update(names)
                for name in names:
                    if name.endswith("weight"):
                        types.add(_checked_dtype(folder, name, stored.get_slice(name).get_dtype()))
        except (SafetensorError, OSError) as error:
            text, remedy = f"has a damaged file {file.name!r}", "Fetch the file again."
            raise _wrong(folder, "MODEL_UNREADABLE", text, remedy=remedy) from error
    if (folder / INDEX).is_file() and (absent := sorted(set(_weight_map(folder)) - found)):
        text = f"lacks {_list(absent)}, which its index names"
        raise _wrong(folder, "MODEL_INCOMPLETE", text, remedy="Fetch the model again.")
    return types


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of a model by name; only headers are read. Raises as `check_weights`."""
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as stored:
                found |= {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            text, remedy = f"has a damaged file {file.name!r}", "Fetch the file again."
            raise _wrong(folder, "MODEL_UNREADABLE", text, remedy=remedy) from error
    return found


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: those of its index, or else its only one. Raises as `check_weights`."""
    if (folder / INDEX).is_file():
        shards = sorted(set(_weight_map(folder).values()))
        absent = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
        if absent:
            text = f"lacks {_list(absent)}, which its index names"
            raise _wrong(folder, "MODEL_INCOMPLETE", text, remedy="Fetch the missing files.")
        return [folder / name for name in shards]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED):
        raise pickled_weights(folder.name, pickled)
    text = "has no weights (model.safetensors, or shards with model.safetensors.index.json)"
    raise _wrong(folder, "MODEL_INCOMPLETE", text, remedy="Fetch the model with its weights as safetensors.")


def pickled_weights(model: str, files: list[str]) -> ModelError:
    """Return the error for a model that has its weights as pickles only."""
    return ModelError(
        "MODEL_PICKLED",
        f"The model {model!r} has its weights only as pickles ({_list(files)}), and reading a pickle can run any code.",
        field="model",
        remedy="Use a revision with safetensors, or convert the weights where you trust them.",
    )


def check_loaded(folder: Path, info: dict[str, Any]) -> None:
    """Check that all tensors of the files and of the model were matched; `info` is transformers' loading info.

    Raises ModelError: MODEL_WEIGHTS_MISSING, MODEL_WEIGHTS_UNKNOWN, MODEL_WEIGHTS_MISMATCH.
    """
    if missing := sorted(info.get("missing_keys") or ()):
        text = f"has no weights for {_list(missing)}; they would start at random"
        raise _wrong(folder, "MODEL_WEIGHTS_MISSING", text, remedy="Fetch the model again, or correct its config.json.")
    if unknown := sorted(info.get("unexpected_keys") or ()):
        text = f"has weights that its architecture does not use: {_list(unknown)}"
        raise _wrong(
            folder, "MODEL_WEIGHTS_UNKNOWN", text, remedy="Use the text model alone, or correct its config.json."
        )
    if mismatched := sorted(str(item[0]) for item in info.get("mismatched_keys") or ()):
        text = f"has weights whose shape differs from its config.json: {_list(mismatched)}"
        raise _wrong(folder, "MODEL_WEIGHTS_MISMATCH", text, remedy="Correct its config.json.")


def check_fit(
    folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, sequence_length: int
) -> None:
    """Check that the model has embeddings for the tokenizer's tokens, and positions for the sequence length.

    Raises ModelError VOCABULARY_MISMATCH, PlanError SEQUENCE_TOO_LONG.
    """
    text_config = config.get_text_config()
    highest, rows = max(tokenizer.get_vocab().values(), default=0), int(text_config.vocab_size)
    if highest >= rows:
        text = f"has {rows} embeddings, and its tokenizer has token ids up to {highest}"
        remedy = "Use the tokenizer that belongs to the model; embeddings are not resized."
        raise _wrong(folder, "VOCABULARY_MISMATCH", text, remedy=remedy)
    positions = getattr(text_config, "max_position_embeddings", 0) or 0
    if positions and sequence_length > positions:
        raise PlanError(
            "SEQUENCE_TOO_LONG",
            f"sequence_length is {sequence_length} tokens, and the model has {positions} positions.",
            field="training.sequence_length",
            remedy=f"Set it to at most {positions}.",
        )


def _checked_dtype(folder: Path, name: str, dtype: str) -> str:
    # Only called for weights: masks and counters beside them are of other types.
    if dtype not in _WEIGHTS:
        text = f"stores {name} as {dtype}, which cannot be trained"
        raise _wrong(folder, "MODEL_DTYPE_UNSUPPORTED", text, remedy="Use the model in bfloat16, float16 or float32.")
    return dtype


def _weight_map(folder: Path) -> dict[str, str]:
    named = _json(folder / INDEX).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise _wrong(folder, "MODEL_UNREADABLE", f"has a damaged {INDEX}", remedy="Fetch the file again.")
    return named


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        text = f"has no {file.name}, or a damaged one"
        raise _wrong(file.parent, "MODEL_UNREADABLE", text, remedy="Fetch the file again.")
    return content


def _wrong(folder: Path, reason: str, text: str, *, remedy: str) -> ModelError:
    return ModelError(reason, f"The model {folder.name!r} {text}.", field="model", remedy=remedy)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + more
