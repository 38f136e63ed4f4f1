# SPDX-License-Identifier: Apache-2.0
"""The real small model, served: what transformers generates, and targets beside each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import artifact_pb2, serving_pb2
from finetree_worker.generate import adapters
from finetree_worker.generate.adapters import Adapters
from finetree_worker.generate.engine import Engine
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_model, load_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

QUESTION = "What is the capital of France?"
TOKENS = 12


# peft 0.21 calls transformers 5 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def engine(smollm2: Path, tmp_path: Path) -> Engine:
    """The model in float32 with two adapters of others, of different ranks."""
    for rank in (4, 8):
        adapted = get_peft_model(base(smollm2), LoraConfig(r=rank, target_modules=["q_proj", "v_proj", "down_proj"]))
        torch.manual_seed(rank)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.02)
        adapted.save_pretrained(str(tmp_path / f"rank{rank}"))
    model = base(smollm2)
    made = Engine(model, load_tokenizer(smollm2), Adapters(model))
    for rank in (4, 8):
        weights = Weights(f"rank{rank}", tmp_path / f"rank{rank}", artifact_pb2.ARTIFACT_KIND_ADAPTER)
        made.adapters.add(weights.name, adapters.read(weights, model))
    return made


def base(folder: Path) -> Any:
    return load_model(folder, torch.float32, device=torch.device("cpu"))


def answers(engine: Engine, *targets: str) -> list[str]:
    turn = serving_pb2.ChatMessage(role=serving_pb2.CHAT_ROLE_USER, content=QUESTION)
    request = serving_pb2.GenerateRequest(targets=targets, conversation=serving_pb2.Conversation(messages=[turn]))
    request.sampling.max_new_tokens = TOKENS
    engine.start(1, request)
    found = [""] * len(targets)
    while engine.busy:
        for _, said in engine.step():
            assert isinstance(said, serving_pb2.GenerateResponse), said
            for piece in said.pieces:
                found[piece.target_index] += piece.text
    return found


@pytest.mark.slow
def test_the_base_and_its_targets_answer_together_as_each_does_alone(engine: Engine, smollm2: Path) -> None:
    """Greedily in float32, token by token; the base's answer is that of transformers' own generation."""
    names = ("base", "rank4", "rank8")
    together = answers(engine, *names)
    assert [answers(engine, name)[0] for name in names] == together
    assert all(together)
    tokenizer = load_tokenizer(smollm2)
    chat = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    settings = GenerationConfig(
        max_new_tokens=TOKENS, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    )
    with torch.inference_mode():
        output = engine.model.generate(ids, generation_config=settings, use_cache=True)
    assert together[0] == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert "Paris" in together[0]
