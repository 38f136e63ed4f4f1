# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF001 - DeepSeek writes its marks with the full-width bar
"""The layouts of the usual chat templates, as short as they can be written, and random conversations for them."""

EACH = "{% for m in messages %}"
TEMPLATES = {
    "ChatML": EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "Phi 4": EACH + "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
    "Llama 3": "<|begin_of_text|>" + EACH + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "Gemma": "<bos>" + EACH + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "Granite": EACH + "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
    "Command R": "<BOS_TOKEN>" + EACH + "<|START_OF_TURN_TOKEN|>"
    "<|{{ {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role] }}_TOKEN|>{{ m.content | trim }}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    "Zephyr": EACH + "<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "Phi 3": EACH + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "Tulu": EACH + "<|{{ m.role }}|>\n{{ m.content }}{{ '<|endoftext|>' if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "Llama 2": "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\\n' + messages[0].content + "
    "'\\n<</SYS>>\\n\\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    + EACH
    + "{% if "
    "m.role == 'user' %}<s>[INST] {{ system if loop.first }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}",
    "Mistral v3": "<s>" + EACH + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
    "DeepSeek": "<｜begin▁of▁sentence｜>" + EACH + "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
}
_WORDS = ("tree", "<b>", "a [1]", "x < y", "two\n\nlines", "$5", "ü", "|", "{}", "user:", "```\ncode\n```", "<think>")


def conversation(chance):
    turns = [{"role": "system", "content": words(chance)}] if chance.random() < 0.5 else []
    for _ in range(chance.randint(1, 4)):
        turns += [{"role": "user", "content": words(chance)}, {"role": "assistant", "content": words(chance)}]
    return turns


def words(chance):
    return " ".join(chance.choices(_WORDS, k=chance.randint(1, 9)))
