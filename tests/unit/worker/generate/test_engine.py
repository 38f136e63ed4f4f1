# SPDX-License-Identifier: Apache-2.0
"""Answers that are decoded together: that each is its own, whatever runs beside it, and how they end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import serving_pb2
from finetree_worker.errors import MemoryExhaustedError, PlanError, TaskError
from finetree_worker.generate import engine as engines
from finetree_worker.generate.engine import Engine
from finetree_worker.generate.kv_cache import KeyValueCache, forward
from generate_harness import METHODS, base_of, finishes, request, run, texts
from hybrid_models import HYBRIDS
from multimodal_models import MULTIMODAL
from transformers import GenerationConfig

PROMPTS = ["hello", "a much longer prompt, of many more tokens than the others have", "x", "some words"]


def greedy(engine: Engine, text: str, target: str, tokens: int = 24) -> str:
    """One target's answer alone."""
    (said,) = run(engine, request(text, target, max_new_tokens=tokens))
    return texts(said)[0]


def generated(model: Any, ids: list[int], tokens: int) -> list[int]:
    """What transformers generates behind a prompt."""
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=257, pad_token_id=257)
    found = model.generate(torch.tensor([ids]), generation_config=settings, use_cache=True)
    return [int(token) for token in found[0, len(ids) :]]


def test_the_base_answers_what_transformers_generates(
    serving: Callable[..., Engine], tokenizer: Any, base_folder: Path
) -> None:
    engine, untouched = serving(), base_of(base_folder)
    for text in PROMPTS:
        wanted = generated(untouched, engine._prompts.tokens(request(text)), 24)
        assert greedy(engine, text, "base") == tokenizer.decode(wanted, skip_special_tokens=True)


def test_answers_of_all_targets_together_are_those_of_each_alone(serving: Callable[..., Engine]) -> None:
    """Different prompts and lengths, base and targets of every kind, some waiting for a place."""
    engine = serving(*METHODS, parallel=7)
    names = ["base", *METHODS]
    groups = [names[:5], names[5:10], [names[10], "base", "lora4"], ["prefix"]]
    alone = [[greedy(engine, text, name) for name in group] for text, group in zip(PROMPTS, groups, strict=True)]
    asked = [request(text, *group, max_new_tokens=24) for text, group in zip(PROMPTS, groups, strict=True)]
    assert [texts(said) for said in run(engine, *asked)] == alone
    assert len({text for group in alone for text in group}) > 8


def test_prompts_of_one_length_are_read_together(
    serving: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several requests too, so that their answers go on in step; one of another length waits for its turn."""
    engine = serving("lora4", "prefix")
    asked = [("some words", "base"), ("some wards", "lora4"), ("same words", "prefix"), ("others", "base")]
    alone = [greedy(engine, text, target, 6) for text, target in asked]
    passes: list[tuple[int, int]] = []

    def counted(*arguments: Any) -> torch.Tensor:
        passes.append((arguments[2].shape[0], arguments[2].shape[1]))
        return forward(*arguments)

    monkeypatch.setattr(engines, "forward", counted)
    said = run(engine, *(request(text, target, max_new_tokens=6) for text, target in asked))
    assert [texts(each)[0] for each in said] == alone
    read = [rows for rows, tokens in passes if tokens > 1]
    assert read == [3, 1]
    assert [rows for rows, tokens in passes if tokens == 1] == [3, 4, 4, 4, 4, 1]


def test_logits_of_a_mixed_batch_differ_by_rounding_alone(
    serving: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-5 in float32: products of more rows are summed in another order."""
    seen: list[Any] = []

    def recorded(*arguments: Any) -> torch.Tensor:
        logits = forward(*arguments)
        seen.append(logits)
        return logits

    names = ["lora8", "base", "houlsby", "prefix", "dora"]
    engine = serving(*names[:1], *names[2:])
    monkeypatch.setattr(engines, "forward", recorded)
    run(engine, request("hello", *names, max_new_tokens=6))
    together, alone = list(seen), []
    for name in names:
        seen.clear()
        run(engine, request("hello", name, max_new_tokens=6))
        alone.append(list(seen))
    assert [step.shape[0] for step in together] == [5] * 6
    for row, steps in enumerate(alone):
        for mixed, single in zip(together, steps, strict=True):
            torch.testing.assert_close(mixed[row], single[0], atol=1e-5, rtol=0)


def test_a_prompt_that_is_read_in_parts_gives_the_same_answer(
    serving: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = serving("lora4", "prefix")
    text = "many words " * 12
    whole = [greedy(engine, text, name) for name in ("base", "lora4", "prefix")]
    monkeypatch.setattr(engines, "PROMPT_TOKENS", 30)
    (said,) = run(engine, request(text, "base", "lora4", "prefix", max_new_tokens=24))
    assert texts(said) == whole


def test_the_cache_grows_and_keeps_what_it_has(serving: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """A later request with more tokens moves the others' keys and values into larger memory."""
    engine = serving("lora4", "prefix")
    alone = greedy(engine, "hello", "prefix", 60), greedy(engine, "y" * 300, "lora4", 60)
    engine.start(0, request("hello", "prefix", max_new_tokens=60))
    found = ["", ""]
    for step in range(200):
        if step == 10:
            engine.start(1, request("y" * 300, "lora4", max_new_tokens=60))
        for number, part in engine.step():
            assert isinstance(part, serving_pb2.GenerateResponse)
            found[number] += "".join(piece.text for piece in part.pieces)
    assert tuple(found) == alone
    assert not engine.busy


def test_sampled_answers_depend_on_seed_and_prompt_alone(serving: Callable[..., Engine]) -> None:
    engine = serving("lora4", "prefix")
    settings = {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 20}
    asked = request("hello", "lora4", seed=5, **settings)
    (alone,) = run(engine, asked)
    beside = [request(PROMPTS[1], "base", "prefix", "lora4", seed=9, **settings), request("zz", max_new_tokens=50)]
    crowd = run(engine, *beside, asked)
    assert texts(crowd[2]) == texts(alone)
    (other,) = run(engine, request("hello", "lora4", seed=6, **settings))
    assert texts(other) != texts(alone)


def test_usage_and_finish_count_tokens_and_seconds(serving: Callable[..., Engine]) -> None:
    engine = serving("lora4")
    (said,) = run(engine, request("hello", "base", "lora4", max_new_tokens=7))
    for finish in finishes(said).values():
        assert (finish.prompt_tokens, finish.new_tokens) == (5, 7)
        assert finish.reason == serving_pb2.FINISH_REASON_MAX_NEW_TOKENS
        assert finish.tokens_per_second > 0
    assert said.usage.new_tokens == 14
    assert 0 < said.usage.first_token_seconds < said.usage.total_seconds
    # The last piece of a target has its finish, and the last response the usage.
    assert [index for index, piece in enumerate(said.pieces) if piece.HasField("finish")][-1] == len(said.pieces) - 1


def test_an_end_token_ends_the_answer_and_is_not_shown(serving: Callable[..., Engine]) -> None:
    engine = serving()
    ids = engine._prompts.tokens(request("hello"))
    third = generated(engine.model, ids, 3)[-1]
    engine._prompts.__dict__["end_tokens"] = frozenset({third})
    (said,) = run(engine, request("hello", max_new_tokens=24))
    assert finishes(said)[0].reason == serving_pb2.FINISH_REASON_STOP
    count = finishes(said)[0].new_tokens
    assert count <= 3
    assert texts(said)[0] == engine._tokenizer.decode(generated(engine.model, ids, count)[:-1])


def test_a_stop_string_ends_the_answer_before_it(serving: Callable[..., Engine]) -> None:
    engine = serving()
    answer = greedy(engine, "hello", "base")
    stop = answer[4:7]
    (said,) = run(engine, request("hello", max_new_tokens=24, stop=["never there", stop]))
    assert finishes(said)[0].reason == serving_pb2.FINISH_REASON_STOP_STRING
    assert texts(said)[0] == answer[: answer.index(stop)]


def test_cancel_ends_at_once_and_frees_its_places(serving: Callable[..., Engine]) -> None:
    engine = serving("lora4", "prefix", parallel=3)
    engine.start(1, request("hello", "base", "lora4", "prefix", max_new_tokens=400))
    engine.start(2, request("next", "base", max_new_tokens=4))
    engine.step()
    engine.step()
    assert engine.cache_bytes > 0
    engine.cancel(1)
    engine.cancel(77)
    said = dict(engine.step())
    assert isinstance(said[1], serving_pb2.GenerateResponse)
    assert {finish.reason for finish in finishes(said[1]).values()} == {serving_pb2.FINISH_REASON_CANCELLED}
    assert said[1].usage.new_tokens == 9
    # The next request had its place in the same step.
    assert len(engine._answers) == 1
    while engine.busy:
        engine.step()
    assert engine.cache_bytes == 0


def test_what_is_cancelled_leaves_the_others_as_they_are(serving: Callable[..., Engine]) -> None:
    """Whoever leaves in the middle gives its slot to the last one, whose keys and values are moved."""
    engine = serving("lora4", "prefix", "houlsby")
    names = ("base", "lora4", "prefix", "houlsby")
    alone = {name: greedy(engine, "hello", name, 30) for name in names}
    for number, name in enumerate(names):
        engine.start(number, request("hello", name, max_new_tokens=30))
    found = dict.fromkeys(range(4), "")
    for step in range(60):
        if step in {5, 9}:
            engine.cancel({5: 0, 9: 2}[step])
        for number, part in engine.step():
            assert isinstance(part, serving_pb2.GenerateResponse)
            found[number] += "".join(piece.text for piece in part.pieces)
    assert (found[1], found[3]) == (alone["lora4"], alone["houlsby"])
    assert alone["base"].startswith(found[0])
    assert found[0] != alone["base"]


def test_bad_requests_are_refused_and_change_nothing(serving: Callable[..., Engine]) -> None:
    engine = serving("lora4", context=32)
    engine.start(0, request("hello", max_new_tokens=3))
    cases = [
        (request("hello", "nobody"), "TARGET_NOT_LOADED"),
        (request("y" * 32), "PROMPT_TOO_LONG"),
        (request(""), "INVALID_REQUEST"),
    ]
    for asked, reason in cases:
        with pytest.raises(PlanError) as refused:
            engine.start(1, asked)
        assert refused.value.reason == reason
    engine._tokenizer.chat_template, template = None, engine._tokenizer.chat_template
    talk = serving_pb2.Conversation(messages=[{"role": serving_pb2.CHAT_ROLE_USER, "content": "hello"}])
    with pytest.raises(PlanError, match="chat template"):
        engine.start(1, serving_pb2.GenerateRequest(targets=["base"], conversation=talk))
    engine._tokenizer.chat_template = template
    assert {number for number, _ in [said for _ in range(5) for said in engine.step()]} == {0}
    # One token less leaves room for one token of an answer.
    (said,) = run(engine, request("y" * 31, max_new_tokens=9))
    assert finishes(said)[0].new_tokens == 1


def test_keys_and_values_that_memory_does_not_hold_are_refused_beforehand(
    serving: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = serving()
    engine.start(0, request("hello", max_new_tokens=9))
    engine.step()
    monkeypatch.setattr(engines, "free_memory_bytes", lambda _: 1000)
    # Beside others it waits; alone it is refused.
    engine.start(1, request("y" * 300, max_new_tokens=9))
    said: list[Any] = []
    while engine.busy:
        said += engine.step()
    errors = [part for number, part in said if isinstance(part, TaskError)]
    assert [(number, type(part)) for number, part in said if number == 1] == [(1, MemoryExhaustedError)]
    assert errors[0].reason == "OUT_OF_MEMORY_PREFLIGHT"
    assert sum(len(part.pieces) > 0 for number, part in said if number == 0) > 0


def test_a_pass_that_fails_ends_the_newest_request_alone(
    serving: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = serving()
    alone = greedy(engine, "hello", "base", 12)
    failures = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("shape")]

    def broken(*arguments: Any) -> torch.Tensor:
        if failures and arguments[2].shape[0] == 2:
            raise failures.pop()
        return forward(*arguments)

    monkeypatch.setattr(engines, "forward", broken)
    engine.start(0, request("hello", max_new_tokens=12))
    engine.step()
    found, reasons = "", []
    for number in (1, 2):
        engine.start(number, request("zz", max_new_tokens=12))
        for _ in range(3):
            for source, part in engine.step():
                if isinstance(part, TaskError):
                    reasons.append((source, part.reason))
                elif source == 0:
                    found += "".join(piece.text for piece in part.pieces)
    while engine.busy:
        found += "".join(piece.text for _, part in engine.step() for piece in getattr(part, "pieces", ()))
    assert reasons == [(1, "GENERATION_FAILED"), (2, "OUT_OF_MEMORY_PREFLIGHT")]
    assert alone.endswith(found)


def test_numbers_that_are_not_finite_are_an_error_and_no_answer(serving: Callable[..., Engine]) -> None:
    engine = serving("lora4")
    for change in engine.adapters["lora4"].changes.values():
        next(iter(change.tensors())).fill_(float("nan"))
    for settings in ({}, {"temperature": 1.0}):
        with pytest.raises(TaskError, match="not finite"):
            run(engine, request("hello", "base", "lora4", **settings))
    assert greedy(engine, "hello", "base")


@pytest.mark.parametrize("kind", ["mistral", "qwen3", "mixtral", "gemma4", *HYBRIDS, *MULTIMODAL])
def test_other_architectures_answer_what_transformers_generates(
    tiny: Callable[..., Any], tokenizer: Any, kind: str
) -> None:
    """A short window, norms of heads, experts, states, a vision tower; rows of unequal length in one batch."""
    from finetree_worker.generate.adapters import Adapters

    model = tiny(kind, **({"sliding_window": 9} if kind == "mistral" else {}))
    engine = Engine(model, tokenizer, Adapters(model))
    said = run(engine, *(request(text, max_new_tokens=16) for text in PROMPTS))
    for text, answer in zip(PROMPTS, said, strict=True):
        wanted = generated(model, engine._prompts.tokens(request(text)), 16)
        assert texts(answer) == [tokenizer.decode(wanted, skip_special_tokens=True)]


@pytest.mark.parametrize("kind", HYBRIDS)
def test_states_stay_with_their_answers(
    tiny: Callable[..., Any], tokenizer: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are read in parts, slots are given away and moved, and another answer begins in one that was used."""
    from finetree_worker.generate.adapters import Adapters

    monkeypatch.setattr(engines, "PROMPT_TOKENS", 10)
    model = tiny(kind)
    engine = Engine(model, tokenizer, Adapters(model), limits=engines.Limits(parallel=3))
    lengths = (3, 16, 7, 12, 9, 1)
    texts_asked = [*PROMPTS, "hello", "x"]
    asked = [request(text, max_new_tokens=most) for text, most in zip(texts_asked, lengths, strict=True)]
    said = run(engine, *asked)
    for text, most, answer in zip(texts_asked, lengths, said, strict=True):
        wanted = generated(model, engine._prompts.tokens(request(text)), most)
        assert texts(answer) == [tokenizer.decode(wanted, skip_special_tokens=True)]
    assert engine.cache_bytes == 0


def test_a_model_that_keeps_other_states_is_refused(tokenizer: Any) -> None:
    from finetree_worker.errors import ModelError
    from finetree_worker.generate.adapters import Adapters
    from transformers import AutoModelForCausalLM, RwkvConfig

    config = RwkvConfig(vocab_size=272, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError) as refused:
        Engine(model, tokenizer, Adapters(model))
    assert refused.value.reason == "MODEL_ARCHITECTURE_UNSUPPORTED"


def test_an_empty_cache_has_no_memory() -> None:
    cache = KeyValueCache(2)
    cache.reserve(3, 10)
    assert (cache.held_bytes, cache.growth(3, 256), cache.growth(4, 256)) == (0, 0, 1024)
