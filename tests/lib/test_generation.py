"""Generation: a batch writes what each prompt gets by itself, and stops where the template says."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from stages.lib.ending import Stops
from stages.lib.generation import Sampling, generate
from tests.tiny import VOCABULARY, tiny_gpt2, tiny_llama, tiny_mistral

MODELS = {"llama": tiny_llama(), "gpt2": tiny_gpt2(), "mistral": tiny_mistral()}
for each in MODELS.values():
    each.generation_config = GenerationConfig()  # as `models` loads them
RANDOM = np.random.default_rng(9)
PROMPTS = [RANDOM.integers(VOCABULARY, size=length).tolist() for length in (3, 90, 1, 17, 90, 40, 2, 5)]
NEVER = Stops(ids=())
NEW = 12  # tokens of an answer in these tests


def decode(ids) -> str:
    """A text that tells every token apart."""
    return "".join(f"[{index}]" for index in ids)


def by_the_book(model, prompt: list[int]) -> list[int]:
    """The likeliest token, one after the other, each out of a whole forward pass."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(NEW):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def texts(model, stops=NEVER, batch_size=8) -> list[str]:
    return [answer.text for answer in generate(model, PROMPTS, stops, decode, batch_size, NEW)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_batched_answers_equal_single_ones(model, batch_size):
    """Field fault 24: prompts of 3 and 90 tokens together."""
    assert texts(model, batch_size=batch_size) == [decode(by_the_book(model, prompt)) for prompt in PROMPTS]


def test_a_filler_that_is_the_end_token_changes_no_answer():
    """Field fault 24, pad = eos: token 0 fills up the short prompts, and here it also ends answers."""
    model = MODELS["llama"]
    expected = [decode(by_the_book(model, prompt)).partition("[0]")[0] for prompt in PROMPTS]
    assert texts(model, Stops(ids=(0,))) == expected


def test_each_answer_ends_before_its_first_end_token():
    """Field fault 13: the template's terminator and the base's end token both stop generation."""
    model = MODELS["llama"]
    whole = [by_the_book(model, prompt) for prompt in PROMPTS]
    ends = (whole[0][4], whole[1][0])  # one ends the first answer after four tokens or less, one the second at once
    answers = generate(model, PROMPTS, Stops(ids=ends), decode, 8, NEW)
    for ids, answer in zip(whole, answers, strict=True):
        length = next((place for place, index in enumerate(ids) if index in ends), None)
        assert answer.text == decode(ids[:length])
        assert answer.finish == ("length" if length is None else "stop")
        assert answer.tokens == (NEW if length is None else length)
    assert answers[1].text == ""


def test_an_end_that_is_no_single_token_cuts_the_text():
    """Field fault 13, ChatML on a base that does not know <|im_end|>: it comes as several tokens."""
    model = MODELS["gpt2"]
    whole = by_the_book(model, PROMPTS[0])
    end = decode(whole[2:4])
    [answer] = generate(model, PROMPTS[:1], Stops(ids=(), texts=("never said", end)), decode, 1, NEW)
    assert answer == (decode(whole).partition(end)[0], "stop", 2)


def test_an_end_that_is_a_text_stops_the_writing_once_every_row_has_said_it():
    model, steps = MODELS["gpt2"], []
    ends = tuple(decode(by_the_book(model, prompt)[2:4]) for prompt in PROMPTS[:2])
    hook = model.register_forward_pre_hook(lambda *_: steps.append(1))
    answers = generate(model, PROMPTS[:2], Stops(ids=(), texts=ends), decode, 2, NEW)
    hook.remove()
    assert {answer.finish for answer in answers} == {"stop"}
    assert all(answer.tokens <= 2 for answer in answers)
    assert len(steps) <= 1 + 4  # read once, then at most four tokens each


def test_an_adapter_changes_the_answers_and_batches_still_equal_single_ones():
    torch.manual_seed(1)
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(tiny_llama(), adapter).eval()
    assert texts(model) == [decode(by_the_book(model, prompt)) for prompt in PROMPTS]
    assert texts(model) != texts(MODELS["llama"])


def drawn(model, sampling, batch_size=8, prompts=PROMPTS) -> list[str]:
    answers = generate(model, prompts, NEVER, decode, batch_size, NEW, sampling=sampling)
    return [answer.text for answer in answers]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_drawn_answers_depend_on_seed_and_prompt_and_on_nothing_else(model):
    sampling = Sampling(temperature=0.8, top_p=0.9, seed=7)
    torch.manual_seed(1)
    expected = drawn(model, sampling)
    torch.manual_seed(2)
    assert drawn(model, sampling, batch_size=3) == expected
    assert drawn(model, sampling, batch_size=1, prompts=PROMPTS[::-1]) == expected[::-1]
    assert drawn(model, sampling._replace(seed=8)) != expected
    assert expected != texts(model)


def test_answers_are_drawn_as_often_as_the_model_holds_them_likely():
    """First tokens of 600 draws against softmax(logits / T), among the likeliest that make up top_p."""
    model, prompt = MODELS["gpt2"], PROMPTS[3]
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=0)
    with torch.inference_mode():
        held = (model(torch.tensor([prompt])).logits[0, -1] / sampling.temperature).softmax(-1)
    order = held.argsort(descending=True)
    kept = order[: int((held[order].cumsum(0) < sampling.top_p).sum()) + 1]
    wanted = torch.zeros_like(held).index_put((kept,), held[kept] / held[kept].sum())
    counts = torch.zeros_like(held)
    for seed in range(600):
        [answer] = generate(
            model, [prompt], NEVER, lambda ids: str(ids[0]), 1, 1, sampling=sampling._replace(seed=seed)
        )
        counts[int(answer.text)] += 1
    found = counts / counts.sum()
    assert set(found.nonzero().flatten().tolist()) <= set(kept.tolist())
    assert len(kept) >= 3
    assert float((found - wanted).abs().max()) < 0.08  # four standard errors of a half


def test_a_temperature_near_zero_is_greedy():
    model = MODELS["gpt2"]
    assert drawn(model, Sampling(1e-6, 1.0, 7)) == texts(model)
