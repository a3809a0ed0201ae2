"""Answers against references: exact match, ROUGE, BLEU, chrF; right for English, Chinese and both in one line.

Exact match and ROUGE run from 0 to 1, BLEU and chrF from 0 to 100, as their packages define them. Nothing here needs
the network: `evaluate.load` would, even for metrics that are installed.
"""

import re
import unicodedata
from collections.abc import Sequence

import regex
from rapidfuzz.distance import LCSseq
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

# Scripts that write no spaces are cut letter by letter, with their marks; everything else into words. On ASCII text
# this is rouge-score's own tokenizer, which drops every other script, so that identical Chinese answers score 0.
WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[a-z0-9]+|[\p{L}\p{M}\p{N}--[\p{ASCII}]]+",
    regex.V1,
)


class Words:
    """Tokenizer in the form that rouge-score takes."""

    def tokenize(self, text: str) -> list[str]:
        """Words of a text, case and width folded."""
        return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


WORDS = Words()
ROUGE_N = RougeScorer(["rouge1", "rouge2"], tokenizer=WORDS)
CHRF_SENTENCE = CHRF()


def normalised(text: str) -> str:
    """A text as exact match compares it: Unicode form and blanks folded; case, punctuation and words count.

    SQuAD's normalisation also drops articles, case and punctuation, which are the answer in JSON and in codes.
    """
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()


def exact_match(answer: str, reference: str) -> float:
    """1.0 if the answer is the reference."""
    return float(normalised(answer) == normalised(reference))


def rouge(answer: str, reference: str) -> dict[str, float]:
    """F-measures of ROUGE-1, -2 and -L (Lin 2004).

    The longest common subsequence comes from rapidfuzz: the same length as rouge-score's, thousands of times faster.
    """
    scores = {name: score.fmeasure for name, score in ROUGE_N.score(reference, answer).items()}
    ours, theirs = WORDS.tokenize(answer), WORDS.tokenize(reference)
    common = LCSseq.similarity(ours, theirs)
    return scores | {"rougeL": 2 * common / (len(ours) + len(theirs)) if common else 0.0}


def row_scores(answer: str, reference: str) -> dict[str, float]:
    """Every figure that one row has by itself."""
    return {
        "exact_match": exact_match(answer, reference),
        **rouge(answer, reference),
        "chrf": CHRF_SENTENCE.sentence_score(answer, [reference]).score,
    }


def corpus_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU (tokenizer "zh", which cuts Chinese into characters and the rest as 13a does) and chrF over all rows."""
    # sacrebleu takes references as streams, one list per reference set: rows in their place score wrong without a word.
    streams = [list(references)]
    bleu = BLEU(tokenize="zh").corpus_score(list(answers), streams)
    return {"bleu": bleu.score, "chrf": CHRF().corpus_score(list(answers), streams).score}


def signatures() -> dict[str, str]:
    """How BLEU and chrF were computed, in sacrebleu's own notation."""
    bleu, chrf = BLEU(tokenize="zh"), CHRF()
    for metric in (bleu, chrf):
        metric.corpus_score(["a"], [["a"]])  # the number of references is known only after a use
    return {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
