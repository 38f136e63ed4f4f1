# SPDX-License-Identifier: Apache-2.0
"""Names of columns in public datasets, in lower case, as they are compared."""

import re

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "contents", "log", "chat")
"""Usual names of a list of turns (OpenAI, ShareGPT, Capybara, DailyDialog, Gemini, DialogStudio, Glaive)."""

QUESTIONS = ("instruction", "prompt", "question", "query", "problem", "input")
"""Usual names of a question (Alpaca, Dolly; TRL; GSM8K, OpenOrca; MetaMath; MATH), the most certain first."""

ANSWERS = ("completion", "output", "response", "solution", "answer", "generation")
"""Usual names of an answer (TRL; Alpaca; Dolly, OpenOrca; MATH; GSM8K; distilabel). Where there is a solution,
the answer beside it is its last line alone (NuminaMath, MATH-500)."""

PAIRS = (
    ("inputs_pretokenized", "targets_pretokenized"),  # P3, whose "inputs" and "targets" are tokens
    ("inputs", "targets"),  # FLAN
    ("input", "target"),  # Firefly, BELLE
    ("input_text", "output_text"),  # Vertex AI's former models
    ("input_text", "target_text"),  # Simple Transformers
    ("source", "target"),
    ("src", "tgt"),
    ("user_input", "response"),  # Ragas, InstructLab
    ("input", "ideal"),  # OpenAI's evals
    ("question", "ideal"),
    ("question", "std_answer"),  # BELLE's evaluation set
    ("question", "ground_truth"),
    ("request", "response"),  # YandexGPT
    ("prompt", "referenceresponse"),  # Bedrock's evaluations
    ("prompt", "canonical_solution"),  # HumanEval
    ("prompt", "code"),  # MBPP, sanitized
    ("context", "continuation"),  # LLM Foundry's LAMBADA
    ("document", "summary"),  # XSum
    ("article", "highlights"),  # CNN/DailyMail
    ("article", "summary"),
    ("dialogue", "summary"),  # SAMSum
    ("content", "summary"),  # AdvertiseGen
    ("human", "assistant"),
    ("human", "bot"),
    ("user", "assistant"),
    ("user", "bot"),
    ("user utterance", "system response"),  # DialogStudio
    ("question", "query"),  # Spider, whose query is SQL
    ("question", "sql"),
    ("nl", "code"),  # CONCODE
)
"""Names of a question and an answer that mean that only together."""

CHOSEN = (
    *("chosen", "chosen_messages", "chosen_response", "preferred_output", "chosen_answer", "chosen_output"),
    *("chosen_completion", "preferred", "preferred_response", "preferred_answer", "better_response", "better_answer"),
)
"""Names of the better answer of a preference pair (HH-RLHF, UltraFeedback; LLaMA-Factory; OpenAI)."""

LABELS = (
    *("ground_truth", "reference", "gold", "label_text", "text_label", "label", "labels", "intent", "sentiment"),
    *("emotion", "class", "category", "topic", "summary", "highlights", "target", "targets", "completions"),
    *("intents", "entities", "slots", *ANSWERS),
)
"""Names of what may be the answer to a text beside it, or a label of plain text: the user has to say which."""

CONTEXTS = ("input", "context", "passage")
"""Usual names of an instruction's context (Alpaca; Dolly; MS MARCO); beside a question, all but the first."""
SYSTEMS = ("system", "system_prompt", "systeminstruction", "system_instruction")
"""Usual names of a system message (LLaMA-Factory; OpenOrca; Gemini)."""
TOOLS = ("tools", "functions", "toolconfig")
"""Usual names of the functions that may be called (OpenAI, Anthropic, Gemini; OpenAI's former; Bedrock)."""
CERTAIN_VERDICTS = (
    *("kto_tag", "kto_label", "is_correct", "desirable", "is_desirable", "is_good", "is_preferred", "is_chosen"),
    *("is_accepted", "is_accepted_answer", "accepted", "is_right", "is_valid", "is_helpful", "thumbs_up", "thumbs"),
    "verdict",
)
"""Names of whether an answer is a good one (LLaMA-Factory's KTO; sampled solutions), whatever it is written as."""
THOUGHTS = ("reasoning_content", "thinking")
"""Names of what is thought before an answer (DeepSeek; Anthropic): learned in front of it, as in a turn."""
VERDICTS = (*CERTAIN_VERDICTS, "correct", "label", "feedback", "rating", "quality")
"""Usual names of whether an answer is a good one; "label" (TRL's KTO) and those around it may be of something else."""

EXAMINED = ("response", "answer", "output", "generation", "completion", "prediction")
"""Names of an answer that may be a model's, under examination, if the right one stands beside it."""
RIGHT = (
    *("gold", "ground_truth", "ground_truths", "gt", "gt_answer", "gt_output", "gold_answer", "golden_answer"),
    *("reference_answer", "reference_output", "reference_response", "expected_answer", "expected_output", "expected"),
    *("expected_response", "ground_truth_answer", "groundtruth", "gold_output", "correct_answer", "correct_response"),
    *("true_answer", "gold_label", "ref_answer", "target_answer", "label_answer", "right_answer", "standard_answer"),
)
"""Names of the right answer beside one under examination (Abel; Ragas). A "reference" is one beside a response alone:
beside an answer it may be where that comes from."""

CHOICE = re.compile(r"(?:option|choice)[ _]?[a-f1-6]|op[a-f]|[a-f]")
"""Names of columns that hold one choice each (MMLU and C-Eval: A to D; MedMCQA: opa to opd)."""
