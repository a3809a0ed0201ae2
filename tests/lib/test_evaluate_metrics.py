"""Our metrics through the interface of `evaluate`, without the hub, against the packages that define them."""

import evaluate
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from stages.lib.evaluate_metrics import Bleu, Chrf, ExactMatch, Rouge

ANSWERS = ["the cat sat on the mat", "a dog\nran away", "模型很好"]
REFERENCES = ["the cat lay on the mat", "ran away\na dog", "模型很差"]


def test_rouge_is_that_of_its_package_on_english():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    theirs = [scorer.score(reference, answer) for answer, reference in zip(ANSWERS[:2], REFERENCES[:2], strict=True)]

    ours = Rouge().compute(predictions=ANSWERS[:2], references=REFERENCES[:2])

    assert ours == {name: pytest.approx(sum(one[name].fmeasure for one in theirs) / 2) for name in theirs[0]}
    assert ours["rougeLsum"] > ours["rougeL"]  # lines in another order


def test_bleu_and_chrf_are_sacrebleus():
    bleu = Bleu().compute(predictions=ANSWERS, references=REFERENCES)
    chrf = Chrf().compute(predictions=ANSWERS, references=REFERENCES)

    assert bleu["bleu"] == pytest.approx(corpus_bleu(ANSWERS, [REFERENCES], tokenize="zh").score)
    assert chrf["chrf"] == pytest.approx(corpus_chrf(ANSWERS, [REFERENCES]).score)
    assert bleu["signature"].startswith("nrefs:1|case:mixed|eff:yes|tok:zh")


def test_they_are_combined_and_need_no_network():
    both = evaluate.combine([ExactMatch(), Rouge()])

    assert both.compute(predictions=["AB12", "x"], references=["ＡＢ12", "y"]) == {
        "exact_match": 0.5,
        **dict.fromkeys(("rouge1", "rougeL", "rougeLsum"), 0.5),
        "rouge2": 0.0,  # a single word has no pair
    }
