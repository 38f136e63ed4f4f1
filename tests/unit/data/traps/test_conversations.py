# SPDX-License-Identifier: Apache-2.0
"""Conversations: who is learned, and what goes with what is learned."""

import pytest

CALL = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
TALK = [
    ("learned", "Hello, how can I help?"),
    ("prompt", "My parcel is late.\nBy a week."),
    ("learned", "I am sorry."),
]
WRITTEN = "Agent: Hello, how can I help?\nCustomer: My parcel is late.\nBy a week.\nAgent: I am sorry."

BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

TRAPS = {
    "a transcript of an agent and a customer": {"rows": [{"conversation": WRITTEN}], "spans": [TALK]},
    "the same in Markdown": {
        "rows": [{"conversation": WRITTEN.replace("Agent:", "**Agent:**").replace("Customer:", "**Customer:**")}],
        "spans": [TALK],
    },
    "turns as texts, of which the agent's is the first": {
        "rows": [{"data": ["Agent: Hello, how can I help?", "Customer: My parcel is late.", "Agent: I am sorry."]}],
        "spans": [[TALK[0], ("prompt", "My parcel is late."), TALK[2]]],
    },
    "turns as texts without names": {
        "rows": [{"data": ["My parcel is late.", "I am sorry."]}],
        "spans": [[("prompt", "My parcel is late."), ("learned", "I am sorry.")]],
    },
    "turns of two people of whom nobody is known as the assistant": {
        "rows": [{"dialog": ["Amanda: I baked cookies.", "Jerry: Sure!", "Amanda: I'll bring some."]}],
        "refused": ("MALFORMED_ROW", "which is the assistant?"),
    },
    "an agent and a customer as roles": {
        "rows": [
            {"messages": [{"speaker": "Agent", "text": "Hello?"}, {"speaker": "Customer", "text": "Hi."},
                          {"speaker": "Agent", "text": "Sorry."}]}
        ],
        "spans": [[("learned", "Hello?"), ("prompt", "Hi."), ("learned", "Sorry.")]],
    },
    "a transcript beside its summary is a document": {
        "rows": [{"dialogue": WRITTEN, "summary": "A parcel is late."}],
        "spans": [[("prompt", WRITTEN), ("learned", "A parcel is late.")]],
    },
    "transcripts as plain texts": {
        "rows": [{"text": WRITTEN}, {"text": WRITTEN}],
        "finding": ("TRANSCRIPTS_AS_TEXT", "ERROR"),
        "offer": {"messages": "text"},
        "then": [TALK, TALK],
    },
    "Guanaco": {
        "rows": [{"text": "### Human: What is a river?### Human"}, {"text": "### Human: q\n### Assistant: a"},
                 {"text": "### Human: r\n### Assistant: b"}],
        "finding": ("TRANSCRIPTS_AS_TEXT", "ERROR"),
    },
    "Alpaca's prompt text": {
        "rows": [
            {"text": f"{BELOW}\n\n### Instruction:\nAdd.\n\n### Input:\n2 and {n}\n\n### Response:\n{n + 2}</s>"}
            for n in (1, 2)
        ],
        "finding": ("TRANSCRIPTS_AS_TEXT", "ERROR"),
        "offer": {"messages": "text"},
        "then": [[("prompt", BELOW), ("prompt", f"Add.\n\n2 and {n}"), ("learned", f"{n + 2}")] for n in (1, 2)],
    },
    "Dolly's prompt text, with an empty input and an end": {
        "rows": [{"text": "<s>### Instruction:\nSay hi.\n### Input:\n\n### Response:\n# Hi\nthere\n\n### End"}] * 2,
        "finding": ("TRANSCRIPTS_AS_TEXT", "ERROR"),
        "offer": {"messages": "text"},
        "then": [[("prompt", "Say hi."), ("learned", "# Hi\nthere")]] * 2,
    },
    "Q and A": {
        "rows": [{"text": "Q: What is a river?\nIs it long?\nA: Water.\nQ: And a lake?\nA: Also: water."}] * 2,
        "finding": ("TRANSCRIPTS_AS_TEXT", "ERROR"),
        "offer": {"messages": "text"},
        "then": [
            [("prompt", "What is a river?\nIs it long?"), ("learned", "Water."),
             ("prompt", "And a lake?"), ("learned", "Also: water.")]
        ] * 2,
    },
    "a question, its choices, and their letter": {
        "rows": [{"text": "Question: Which is wet?\nA: fire\nB: rain\nAnswer: B"}] * 2,
        "finding": ("TRANSCRIPTS_AS_TEXT", "ERROR"),
        "offer": {"messages": "text"},
        "then": [[("prompt", "Which is wet?\nA: fire\nB: rain"), ("learned", "B")]] * 2,
    },
    "a page of questions and answers a line, as text": {
        "file": "faq.txt",
        "text": "Q: one? A: 1\nQ: two? A: 2\n",
        "spans": [[("learned", "Q: one? A: 1")], [("learned", "Q: two? A: 2")]],
    },
    "a manual with headings": {
        "rows": [{"text": "# add\n\n## Input\n\nTwo numbers.\n\n## Output\n\nTheir sum.\n\nA: see B."}],
        "spans": [[("learned", "# add\n\n## Input\n\nTwo numbers.\n\n## Output\n\nTheir sum.\n\nA: see B.")]],
    },
    "questions without answers": {
        "rows": [{"text": "Q: What is left?"}, {"text": "### Instruction:\nGo."}],
        "spans": [[("learned", "Q: What is left?")], [("learned", "### Instruction:\nGo.")]],
    },
    "prose with a colon": {
        "rows": [{"text": "The user: a person who uses.\nHe said: the agent is late."}],
        "spans": [[("learned", "The user: a person who uses.\nHe said: the agent is late.")]],
    },
    "a question that begins with blank lines": {
        "rows": [{"messages": [{"role": "user", "content": "\n\nHi"}, {"role": "assistant", "content": "\n\nHo"}]}],
        "spans": [[("prompt", "Hi"), ("learned", "\n\nHo")]],
    },
    "a context without a question": {
        "rows": [{"question": "", "context": "A passage.", "answer": "a"}],
        "spans": [[("prompt", "A passage."), ("learned", "a")]],
    },
    "results of a tool that nobody called": {
        "rows": [
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Let me look."},
                          {"role": "tool", "content": "sunny"}, {"role": "assistant", "content": "It is sunny."}]}
        ],
        "finding": ("TOOL_RESULTS_WITHOUT_CALLS", "WARNING"),
    },
    "a tool's result first of all": {
        "rows": [
            {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "sunny"},
                          {"role": "assistant", "content": "It is sunny."}]}
        ],
        "finding": ("TOOL_RESULTS_WITHOUT_CALLS", "WARNING"),
    },
    "two results of two calls": {
        "rows": [
            {"messages": [{"role": "user", "content": "q"},
                          {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
                          {"role": "tool", "content": "sunny"}, {"role": "tool", "content": "warm"},
                          {"role": "assistant", "content": "It is."}]}
        ],
    },
    "calls that are written into the answer": {
        "rows": [
            {"messages": [{"role": "user", "content": "q"},
                          {"role": "assistant", "content": '<tool_call>\n{"name": "weather"}\n</tool_call>'},
                          {"role": "tool", "content": "sunny"}, {"role": "assistant", "content": "It is."}]}
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_a_conversation_is_learned_as_it_was_held(spring, name):
    spring(TRAPS[name])
