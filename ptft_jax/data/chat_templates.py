"""Chat templates by name, for models that were trained with one but whose tokenizer does not bring it.

They give the texts of the families' published templates, and mark what the assistant said. What a family has no words
for (tools in ChatML as OpenAI described it) they refuse. Never chosen unasked.
"""

from __future__ import annotations

_CONTENT = "{% set content = message.content if message.content is string else message.content | map(attribute='text') | join %}"


def _refusal(name: str) -> str:
    return (
        "{% if tools %}{{ raise_exception('the built-in " + name + " template has no tools') }}{% endif %}"
        "{% for message in messages %}{% if message.tool_calls %}"
        "{{ raise_exception('the built-in " + name + " template has no tool calls') }}{% endif %}{% endfor %}"
    )


# OpenAI's chat markup language, as Hugging Face templates write it.
CHATML = (
    _refusal("chatml") + "{% for message in messages %}" + _CONTENT + "{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Llama 3's, without the dates of 3.1. What tools said has the role that 3.1 gives it.
LLAMA3 = (
    _refusal("llama3") + "{{ bos_token }}{% for message in messages %}" + _CONTENT
    + "{% set role = 'ipython' if message.role == 'tool' else message.role %}"
    "{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{% if role == 'assistant' %}"
    "{% generation %}{{ content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)  # fmt: skip
# Gemma 3's: what the system said comes before the first turn of the user, and the turns take turns.
GEMMA = (
    _refusal("gemma") + "{{ bos_token }}{% set ns = namespace(system='', turns=0) %}{% for message in messages %}" + _CONTENT
    + "{% if loop.first and message.role in ['system', 'developer'] %}{% set ns.system = content + '\\n\\n' %}"
    "{% else %}{% if message.role != ['user', 'assistant'][ns.turns % 2] %}"
    "{{ raise_exception('after the system, user and assistant must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}"
    "{{ ns.system if ns.turns == 0 else '' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ content | trim + '<end_of_turn>' }}{% endgeneration %}"
    "{% else %}{{ content | trim + '<end_of_turn>' }}{% endif %}{{ '\\n' }}{% set ns.turns = ns.turns + 1 %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)  # fmt: skip
BUILT_IN = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA}
# What ends a turn of a built-in template, where it is no token of the tokenizer.
STOPS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
