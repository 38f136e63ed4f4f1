# SPDX-License-Identifier: Apache-2.0
"""The three forms of an export: what is written, what it rounds, how it is read back, and how it is loaded."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from finetree_api.trainer.v1 import artifact_pb2, export_pb2
from finetree_api.types.v1 import check_pb2, serving_pb2
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.errors import PlanError
from finetree_worker.export import ollama
from finetree_worker.export.gguf import architectures, lora_file, model_file
from finetree_worker.export.gguf.pre_tokenizers import CHECK_TEXT
from finetree_worker.export.gguf.tokenizer import Vocabulary, matching_vocabulary, tokenizer_of
from finetree_worker.export.gguf.weights import WeightType, in_place, rounded, tensor_type
from finetree_worker.export.prompts import BUILT_IN
from finetree_worker.methods.full import Full
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.plan import BaseModel
from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.tool_calls import TEMPLATE_ERRORS

CPU = torch.device("cpu")
MODELFILE = "Modelfile"
Progress = Callable[[float], None]
Adapted = PreTrainedModel | PeftModel


def plain(adapted: Adapted) -> PreTrainedModel:
    """Return the model whose forward pass is the adapted one's; that of a LoRA is in the layers of its base."""
    model: Any = adapted.get_base_model() if isinstance(adapted, PeftModel) else adapted
    found: PreTrainedModel = model
    return found


class Form(ABC):
    """One form of an export, of weights in one number format."""

    kind: ClassVar[artifact_pb2.ArtifactKind.ValueType]
    merges: ClassVar[bool] = True
    """Whether trained weights become weights of the base."""

    def __init__(self, weights: WeightType, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.weights, self.config, self.tokenizer = weights, config, tokenizer
        self.remarks: list[check_pb2.Remark] = []

    @abstractmethod
    def write(self, folder: Path, model: Adapted, base: BaseModel, on_fraction: Progress) -> None:
        """Write a float32 model, each weight rounded once. `on_fraction` gets 0..1 and may raise to stop."""

    @abstractmethod
    def rounded(self, model: Adapted) -> PreTrainedModel:
        """Round a float32 model's weights in place, to what was written."""

    @abstractmethod
    def read(
        self, folder: Path, load_base: Callable[[], PreTrainedModel]
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Read what was written as its receivers do: the model in float32, and the tokenizer with its template."""

    @abstractmethod
    def commands(self, base: BaseModel) -> list[export_pb2.LoadCommand]:
        """Return how to load what was written, from a shell in its folder."""


class TransformersFolder(Form):
    """A model folder that transformers 4.5x and 5 read alike."""

    kind = artifact_pb2.ARTIFACT_KIND_MODEL

    def write(self, folder: Path, model: Adapted, base: BaseModel, on_fraction: Progress) -> None:
        """Write config.json, generation settings, tokenizer, chat template and safetensors."""
        whole = plain(model)
        Full().save(whole, folder, base=base, tokenizer=self.tokenizer, dtype=self.weights.dtype)
        whole.config.use_cache = False
        on_fraction(1.0)

    def rounded(self, model: Adapted) -> PreTrainedModel:
        """Round every tensor to the type of the files."""
        whole = plain(model)
        in_place(dict(whole.named_parameters()), lambda _, tensor: tensor.to(self.weights.dtype))
        return whole

    def read(
        self, folder: Path, load_base: Callable[[], PreTrainedModel]
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the folder, from safetensors alone."""
        del load_base
        return load_model(folder, torch.float32, device=CPU), load_tokenizer(folder)

    def commands(self, base: BaseModel) -> list[export_pb2.LoadCommand]:
        """Return the lines of Python."""
        lines = (
            f"from transformers import {base.auto_class}, AutoTokenizer",
            'tokenizer = AutoTokenizer.from_pretrained(".")',
            f'model = {base.auto_class}.from_pretrained(".", dtype="auto")',
        )
        return [_command(serving_pb2.SERVING_TARGET_TRANSFORMERS, lines)]


class GgufModel(Form):
    """A model, its tokenizer and its template in one GGUF file, with a Modelfile for Ollama beside it."""

    kind = artifact_pb2.ARTIFACT_KIND_GGUF

    def __init__(self, weights: WeightType, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises PlanError: EXPORT_ARCHITECTURE_UNSUPPORTED, EXPORT_TOKENIZER_UNSUPPORTED."""
        super().__init__(weights, config, tokenizer)
        architectures.architecture_of(config)
        self.vocabulary = matching_vocabulary(tokenizer, config, _texts(tokenizer))
        self.file = f"model-{weights.value}.gguf"
        self.ends = {int(tokenizer.eos_token_id)}
        window = getattr(config, "sliding_window", None)
        if config.model_type == "mistral" and window:
            text = f"The model's attention reaches back {window} tokens; llama.cpp lets it reach to the beginning."
            self.remarks.append(check_pb2.Remark(code="SLIDING_WINDOW_LOST", message=text))
        if not self.vocabulary.chat_template:
            text = "The model has no chat template: programs that load the file take their own default for chats."
            self.remarks.append(check_pb2.Remark(code="NO_CHAT_TEMPLATE", message=text))
        elif ollama.turns_of(tokenizer, add_bos=self.vocabulary.add_bos) is None:
            text = "Ollama's language cannot say what the chat template does: the Modelfile leaves it to Ollama."
            self.remarks.append(check_pb2.Remark(code="OLLAMA_TEMPLATE_LEFT_OUT", message=text))

    def write(self, folder: Path, model: Adapted, base: BaseModel, on_fraction: Progress) -> None:
        """Write the file and the Modelfile."""
        configured: Any = getattr(plain(model).generation_config, "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        self.ends |= {int(end) for end in listed if end is not None}
        about = model_file.About(base.hub_id.rpartition("/")[2] or "model", base.hub_id, base.revision)
        path = folder / self.file
        model_file.write(
            path, plain(model), self.vocabulary, about=about, weights=self.weights, on_fraction=on_fraction
        )
        text = ollama.modelfile(self.file, self.tokenizer, _stops(self.vocabulary), add_bos=self.vocabulary.add_bos)
        (folder / MODELFILE).write_text(text, encoding="utf-8")

    def rounded(self, model: Adapted) -> PreTrainedModel:
        """Round every tensor to the type of the file, in the file's order of rows."""
        whole = plain(model)
        model_file.round_like_file(whole, self.weights)
        return whole

    def read(
        self, folder: Path, load_base: Callable[[], PreTrainedModel]
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Make model and tokenizer of what the file says, and of nothing else."""
        del load_base
        file = model_file.ModelFile(folder / self.file)
        held, model = file.vocabulary(), file.model()
        if model.generation_config is not None:
            # An end of the trained model that llama.cpp does not stop at is none of the file's.
            model.generation_config.eos_token_id = sorted(self.ends & held.ends)
        return model, tokenizer_of(held)

    def commands(self, base: BaseModel) -> list[export_pb2.LoadCommand]:
        """Return the commands of llama.cpp and Ollama, and the lines of Python where transformers reads all of it."""
        del base
        readable = architectures.read_by_transformers(self.config)
        python = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="{self.file}")',
            f'model = AutoModelForCausalLM.from_pretrained(".", gguf_file="{self.file}")',
        )
        return [
            _command(serving_pb2.SERVING_TARGET_LLAMA_CPP, (f"llama-cli -m {self.file} -cnv",)),
            _command(serving_pb2.SERVING_TARGET_OLLAMA, (f"ollama create NAME -f {MODELFILE} && ollama run NAME",)),
            *([_command(serving_pb2.SERVING_TARGET_TRANSFORMERS, python)] if readable else []),
        ]


class GgufLora(Form):
    """A LoRA adapter as GGUF file, for the base as GGUF file."""

    kind = artifact_pb2.ARTIFACT_KIND_GGUF
    merges = False

    def __init__(self, weights: WeightType, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises PlanError EXPORT_ARCHITECTURE_UNSUPPORTED."""
        super().__init__(weights, config, tokenizer)
        architectures.architecture_of(config)
        self.file = f"adapter-{weights.value}.gguf"

    def write(self, folder: Path, model: Adapted, base: BaseModel, on_fraction: Progress) -> None:
        """Write the file. Raises PlanError EXPORT_FORMAT_UNSUPPORTED for what is no plain LoRA."""
        name = base.hub_id.rpartition("/")[2] or "model"
        about = model_file.About(f"{name} adapter", base.hub_id, base.revision)
        lora_file.write(folder / self.file, model, about=about, weights=self.weights, on_fraction=on_fraction)

    def rounded(self, model: Adapted) -> PreTrainedModel:
        """Round the adapter's matrices."""
        matrices: dict[str, Tensor] = {name: tensor for name, tensor in model.named_parameters() if "lora_" in name}
        shape = tensor_type("lora", (2, 2), self.weights)
        in_place(matrices, lambda name, tensor: rounded(tensor, shape, name))
        return plain(model)

    def read(
        self, folder: Path, load_base: Callable[[], PreTrainedModel]
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Add the file's matrices to the base; the tokenizer is the base's."""
        model = load_base()
        lora_file.add_to(model, folder / self.file)
        return model, self.tokenizer

    def commands(self, base: BaseModel) -> list[export_pb2.LoadCommand]:
        """Return the commands of llama.cpp and Ollama."""
        name = f"{base.hub_id.rpartition('/')[2] or 'BASE'}.gguf"
        ollama_lines = (
            f"printf 'FROM ./{name}\\nADAPTER ./{self.file}\\n' > {MODELFILE}",
            f"ollama create NAME -f {MODELFILE} && ollama run NAME",
        )
        return [
            _command(serving_pb2.SERVING_TARGET_LLAMA_CPP, (f"llama-cli -m {name} --lora {self.file} -cnv",)),
            _command(serving_pb2.SERVING_TARGET_OLLAMA, ollama_lines),
        ]


_FORMS: dict[artifact_pb2.ExportFormat.ValueType, type[Form]] = {
    artifact_pb2.EXPORT_FORMAT_TRANSFORMERS: TransformersFolder,
    artifact_pb2.EXPORT_FORMAT_GGUF: GgufModel,
    artifact_pb2.EXPORT_FORMAT_GGUF_LORA: GgufLora,
}


def form_of(
    kind: artifact_pb2.ExportFormat.ValueType,
    weights: WeightType,
    *,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> Form:
    """Return the form of an export.

    Raises PlanError: EXPORT_ARCHITECTURE_UNSUPPORTED, EXPORT_TOKENIZER_UNSUPPORTED; EXPORT_FORMAT_UNSUPPORTED for a
    format that this worker does not know.
    """
    if kind not in _FORMS:
        text = "This worker does not write the format that was asked for."
        raise PlanError("EXPORT_FORMAT_UNSUPPORTED", text, field="export.format", remedy="Upgrade the worker.")
    return _FORMS[kind](weights, config, tokenizer)


def _texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return texts of which a file must make the same tokens: as chats where there is a template, else as they are.

    Servers tokenize what the template renders, so a difference in a text without it would be of no effect.
    """
    texts, template = [*BUILT_IN, CHECK_TEXT], ChatTemplate(tokenizer)
    if not template.exists:
        return texts
    try:
        chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": text}] for text in texts]
        return [template.render(chat, None, prompt=False, plain=True) for chat in chats]
    except TEMPLATE_ERRORS:
        return texts


def _stops(held: Vocabulary) -> list[str]:
    return list(dict.fromkeys(held.tokens[held.special[name]] for name in ("eos", "eot") if name in held.special))


def _command(program: serving_pb2.ServingTarget.ValueType, lines: Sequence[str]) -> export_pb2.LoadCommand:
    return export_pb2.LoadCommand(program=program, command="\n".join(lines))
