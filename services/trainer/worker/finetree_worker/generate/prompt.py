# SPDX-License-Identifier: Apache-2.0
"""Prompts to tokens, as in training: the same chat template, the same single BOS token."""

from functools import cached_property

from finetree_api.trainer.v1 import serving_pb2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.errors import PlanError
from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.limits import limited_call
from finetree_worker.tokenize.tokenizer import leading_bos
from finetree_worker.tokenize.tool_calls import TEMPLATE_ERRORS

_ROLES = {
    serving_pb2.CHAT_ROLE_SYSTEM: "system",
    serving_pb2.CHAT_ROLE_USER: "user",
    serving_pb2.CHAT_ROLE_ASSISTANT: "assistant",
}


class Prompts:
    """Renders and tokenizes what is asked of one model; the tokenizer may not be changed meanwhile."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
        self.tokenizer = tokenizer
        self._template, self._bos = ChatTemplate(tokenizer), leading_bos(tokenizer)
        self._configured = getattr(model.generation_config, "eos_token_id", None)

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's, those that the model names, and the template's end of a turn."""
        configured = self._configured if isinstance(self._configured, list) else [self._configured]
        marks = self._template.answer_marks if self._template.exists else None
        ending = self._ids(marks.end.strip()) if marks is not None else []
        # An end of several tokens is text, which no single token can stand for.
        turn = ending if len(ending) == 1 and ending[0] in self.tokenizer.all_special_ids else []
        return frozenset({self.tokenizer.eos_token_id, *configured, *turn} - {None})

    def tokens(self, request: serving_pb2.GenerateRequest) -> list[int]:
        """Return the tokens of a request's input, at least one.

        Raises PlanError: NO_CHAT_TEMPLATE and TEMPLATE_REFUSED_ROW for a conversation, INVALID_REQUEST for an empty
        prompt, TOKENIZATION_LIMIT.
        """
        talk = request.WhichOneof("input") == "conversation"
        with limited_call("Rendering and tokenizing this prompt"):
            ids = self._ids(self._rendered(request.conversation) if talk else request.prompt)
        if self._bos is not None and ids[:1] != [self._bos]:
            ids = [self._bos, *ids]
        if not ids:
            raise PlanError("INVALID_REQUEST", "The prompt has no tokens.", field="prompt", remedy="Write some text.")
        return ids

    def _rendered(self, conversation: serving_pb2.Conversation) -> str:
        if not self._template.exists:
            raise PlanError(
                "NO_CHAT_TEMPLATE",
                "The served model has no chat template.",
                field="conversation",
                remedy="Ask with a prompt, which no template changes, or serve an instruct model.",
            )
        turns = [{"role": _ROLES[message.role], "content": message.content} for message in conversation.messages]
        try:
            return self._template.render(turns, None, prompt=True, plain=True)
        except TEMPLATE_ERRORS as error:
            raise PlanError(
                "TEMPLATE_REFUSED_ROW",
                f"The model's chat template rejects these messages: {str(error)[:200] or type(error).__name__}",
                field="conversation.messages",
                remedy="Many templates need user and assistant in turns, and a system message only at the beginning.",
            ) from error

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
