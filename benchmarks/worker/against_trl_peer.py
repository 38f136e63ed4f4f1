# SPDX-License-Identifier: Apache-2.0
"""The peers' side of against_trl.py: TRL's SFTTrainer, or the adapters library's, set up as well as they can be.

    python against_trl_peer.py SETTINGS.json

Runs in the peer's own environment and imports nothing of this project. Speaks as pacing.py says. The clock of a step
runs from the word to go on to the trainer's on_step_end: batches, forward and backward passes, clipping and update.

The rows come with their tokens and labels, as this project's worker has made them, so both sides learn the same tokens.
Evaluation, checkpoints and reports to trackers are off. transformers' Trainer does the rest by its own rules.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pacing import Pacer, peak_bytes, settings

IGNORED = -100  # label of a token that is not learned


def dataset(path: str) -> Any:
    """The tokenized rows of a file: input_ids and labels."""
    from datasets import Dataset

    return Dataset.from_list([json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()])


def quantization(asked: dict[str, Any]) -> dict[str, Any]:
    """How the base is loaded: as it is, or in 4 bits as QLoRA has it."""
    if asked["method"] != "qlora":
        return {}
    from transformers import BitsAndBytesConfig

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": four}


def peft_config(asked: dict[str, Any]) -> Any:
    """What peft trains; None for all weights."""
    from peft import LoraConfig, PrefixTuningConfig

    if asked["method"] == "prefix":
        return PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=asked["virtual_tokens"], init_weights="zero"
        )
    if asked["method"] == "full":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=asked["rank"],
        lora_alpha=asked["alpha"],
        lora_dropout=asked["dropout"],
        target_modules="all-linear",
        bias="none",
    )


def arguments(asked: dict[str, Any]) -> dict[str, Any]:
    """What transformers' Trainer is told in every case."""
    way = asked["way"]
    return {
        "output_dir": asked["work"],
        "max_steps": asked["steps"],
        "per_device_train_batch_size": way["micro_batch"],
        "gradient_accumulation_steps": way["accumulation"],
        "learning_rate": asked["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": way["autocast"],
        "torch_compile": bool(way["compile"]),
        "dataloader_num_workers": way.get("loaders", 0),
        "seed": asked["seed"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def sft_trainer(asked: dict[str, Any]) -> Any:
    """TRL's trainer for the settings."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    way = asked["way"]
    model = AutoModelForCausalLM.from_pretrained(
        asked["model"], dtype=getattr(torch, way["weights"]), **quantization(asked)
    )
    packed = {"packing": True, "packing_strategy": way["packing"]} if way["packing"] else {"packing": False}
    grouped = {} if way["packing"] else {"train_sampling_strategy": "group_by_length"}
    config = SFTConfig(
        **arguments(asked),
        **packed,
        **grouped,
        max_length=way["length"] if way["packing"] else asked["length"],
        pad_to_multiple_of=way.get("pad_to"),
        shuffle_dataset=True,
    )
    return counted(SFTTrainer)(
        model=model,
        args=config,
        train_dataset=dataset(asked["tokens"]),
        processing_class=AutoTokenizer.from_pretrained(asked["model"]),
        peft_config=peft_config(asked),
    )


def adapter_trainer(asked: dict[str, Any]) -> Any:
    """The adapters library's trainer: bottleneck layers after the MLP, as Pfeiffer et al. have them."""
    import adapters
    from adapters import AdapterTrainer, SeqBnConfig
    from transformers import AutoModelForCausalLM, TrainingArguments

    way = asked["way"]
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=getattr(torch, way["weights"]))
    adapters.init(model)
    # Its default leaves the layers far from the identity; with zeros in the projection up both sides start alike.
    reduction = model.config.hidden_size / asked["bottleneck"]
    model.add_adapter("own", config=SeqBnConfig(reduction_factor=reduction, init_weights="mam_adapter"))
    model.train_adapter("own")
    # It makes its layers in float32 and adds no casts: a bf16 model takes them in bf16 alone. Parameters only: the
    # frequencies of rotary positions are a buffer in float32, which, cast with the rest, take the base's loss from 2.44
    # to 2.56.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, way["weights"]))
    told = arguments(asked) | {"group_by_length": True}
    # This transformers does not know the tokenizer's class; the rows have their tokens, and padding is one id.
    return counted(AdapterTrainer)(
        model=model,
        args=TrainingArguments(**told),
        train_dataset=dataset(asked["tokens"]),
        data_collator=padded,
    )


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of rows, padded to the longest."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    ones = [torch.ones_like(row) for row in ids]
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad(ones, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }


def counted(trainer: Any) -> Any:
    """A trainer that counts the tokens which are no padding."""

    class Counted(trainer):  # type: ignore[misc]
        real_tokens = 0

        def training_step(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            self.real_tokens += real_tokens(inputs)
            return super().training_step(model, inputs, *arguments, **named)

    return Counted


def real_tokens(inputs: Any) -> int:
    """Tokens of a batch that are no padding."""
    if "attention_mask" in inputs:
        return int(inputs["attention_mask"].sum())
    positions = inputs["position_ids"]
    # Padding has the position 0, like a document's first token; every document has one token at 1.
    return int((positions > 0).sum() + (positions == 1).sum())


def held_out_loss(model: Any, asked: dict[str, Any]) -> float:
    """Mean cross entropy (nats) per learned token, row by row, by the model's plain forward pass."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in dataset(asked["held_out_tokens"]):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
            logits = model(input_ids=ids).logits[0, -len(labels) :].float()
            learned = labels[1:] != IGNORED
            loss = torch.nn.functional.cross_entropy(logits[:-1][learned], labels[1:][learned], reduction="sum")
            total, count = total + float(loss), count + int(learned.sum())
    model.train(was_training)
    return total / count


def paced(trainer: Any, pacer: Pacer) -> Any:
    """A callback that stops at every step."""
    from transformers import TrainerCallback

    class Paced(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pacer.ready()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            # Logged after the step's end was told; the loss belongs to the step before.
            if logs and "loss" in logs:
                pacer.tell("loss", step=state.global_step, loss=logs["loss"], grad_norm=logs.get("grad_norm"))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            tokens, trainer.real_tokens = trainer.real_tokens, 0
            pacer.step(tokens=tokens)

    return Paced()


def main() -> None:
    """Train the settings of the first argument."""
    asked = settings()
    warnings.simplefilter("ignore")
    if asked["way"]["compile"] == "layers":
        # The whole model is not compiled where its loss breaks the graph: each decoder layer by itself is.
        os.environ["ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION"] = "true"
    torch.set_num_threads(asked["threads"])
    pacer = Pacer()
    trainer = adapter_trainer(asked) if asked["method"] == "adapter" else sft_trainer(asked)
    trainer.add_callback(paced(trainer, pacer))
    compared = asked.get("compare", False)
    if compared:
        pacer.tell("held_out", step=0, loss=held_out_loss(trainer.model, asked))
    trainer.train()
    peak = peak_bytes()
    if compared:
        pacer.tell("held_out", step=asked["steps"], loss=held_out_loss(trainer.model, asked))
    pacer.tell("done", peak_bytes=peak)


if __name__ == "__main__":
    sys.exit(main())
