"""Tiny bases for tests: tokenizers of the two common kinds, famous chat templates, and a models/base folder of them."""

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from stages.lib.pinned import MANIFEST, Pinned, describe

CORPUS = (
    "Which department answers the question about the order? The invoice goes to sales, the parcel to the warehouse.",
    "### Instruction:\nRead the order number.\n\n### Input:\nOrder 4711 has arrived.\n\n### Response:\n4711\n",
    "system\nuser\nassistant\nHello, how are you? I am well. The answer is 42.",
    "退款已批准。请回答：订单号是多少？",
)

SMOL = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

# As Llama 3.2: BOS from the template, contents trimmed, a date that comes from the clock if there is one.
LLAMA3 = """{{- bos_token }}
{%- if strftime_now is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- else %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# As Qwen 3: reasoning of earlier answers is dropped, the last answer gets a <think> block even if there was none.
QWEN3 = """{%- set ns = namespace(last=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- set reasoning = '' %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.index0 > ns.last %}
        {{- '<think>\\n' + reasoning + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# As Llama 2: BOS before every question, the answer between blanks, no system text of its own.
LLAMA2 = """{% for message in messages %}
{% if message.role == 'system' %}{{ raise_exception('this template knows no system text') }}{% endif %}
{% if message.role == 'user' %}{{ bos_token + '[INST] ' + message.content | trim + ' [/INST]' }}
{%- else %}{% generation %}{{ ' ' + message.content | trim + ' ' + eos_token }}{% endgeneration %}{% endif %}
{% endfor %}"""


@cache
def byte_level(*specials: str) -> str:
    """tokenizer.json in the manner of GPT-2: byte-level BPE, no unknown characters, no word mark."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


@cache
def metaspace(*specials: str) -> str:
    """tokenizer.json in the manner of Llama 2: BPE over a text whose words are marked by "▁", bytes for the unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    marks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(marks)
    tokenizer.add_special_tokens(["<unk>", *specials])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=60,
        show_progress=False,
    )
    words = [word for text in CORPUS for word in text.replace("\n", " ").split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    document = json.loads(tokenizer.to_str())
    # The trainer made control tokens of the bytes too; in Llama 2 they are ordinary pieces.
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in ("<unk>", *specials)]
    return json.dumps(document)


def adding_bos(tokenizer_json: str, bos: str) -> str:
    """The tokenizer, which now puts `bos` first by itself (Llama)."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    specials = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=specials)
    return str(tokenizer.to_str())


def with_swallowing(tokenizer_json: str, *specials: str) -> str:
    """The tokenizer, where these control tokens swallow the blanks after them (Phi 3)."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.add_special_tokens([AddedToken(text, rstrip=True, normalized=False) for text in specials])
    return str(tokenizer.to_str())


def write_base(
    folder: Path,
    tokenizer_json: str,
    *,
    chat_template: str | None = None,
    bos: str | None = None,
    eos: str | None = None,
    pad: str | None = None,
    adds_bos: bool = False,
    context: int = 512,
    vocab_size: int | None = None,
) -> Pinned:
    """Write models/base as `stages.base` does, but without weights; transformers can read its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **{key: text for key, text in names.items() if text}}
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    files = ["tokenizer.json", "tokenizer_config.json"]
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        files.append("chat_template.jinja")
    pinned = Pinned(
        name="tiny",
        source="folder",
        revision=None,
        architecture="LlamaForCausalLM",
        context=context,
        vocab_size=vocab_size or Tokenizer.from_str(tokenizer_json).get_vocab_size(),
        parameters=0,
        dtype="float32",
        bos=bos,
        eos=eos,
        pad=pad,
        unk=None,
        adds_bos=adds_bos,
        weights_in="folder",
        files=describe(folder, files),
    )
    (folder / MANIFEST).write_text(json.dumps(pinned.as_json()), encoding="utf-8")
    return pinned
