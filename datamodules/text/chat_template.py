"""The conversation as text, in the language that transformers and llama.cpp render it by (Jinja)."""

# One end-of-text before all, as before every document; each turn is the token of its role, its text and the end token.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
