"""Whether an answer refuses, by how it begins, in English and Chinese.

Patterns find the ways of refusing that chat programs share, and miss the others: a lecture, a change of the subject. So
what is found is a lower bound of what is refused. That holds as far as what is found is a refusal: "I can't tell you
that, but here is how …" begins as one and counts as one.
"""

import re
from enum import StrEnum

from stages.lib.words import is_blank, same

_CANNOT = r"can(?:not|'t| not)"
_SORRY = r"i(?:'m| am) (?:very |really |so )?(?:sorry|afraid)\b"
_SORRY_ZH = r"(?:很|非常|十分|万分|实在|真的|真是){0,3}(?:抱歉|对不起)"
_MODEL_ZH = r"(?:作为|我是|我只是)一?[个名款]?\s?(?:ai|人工智能|大?型?语言模型)"

# What a shop does not do, and says so: a true answer.
_SHOPS_NO = (
    r" (?:provide|offer|give|issue|grant) (?:you )?(?:with )?(?:an? |any |the )?(?:full |partial |further )?"
    r"(?:refund|discount|replacement|store credit|lower price)s?\b"
)
_CANNED = re.compile(
    rf"(?:{_SORRY}.{{0,20}}?)?"
    r"(?:as|i(?:'m| am)(?: just| only)?) an? (?:ai|artificial intelligence|(?:large )?language model)\b.{0,80}?"
    rf"(?:\b{_CANNOT}|\bdo(?: not|n't)|\b(?:am|i'm) (?:not|unable)|\black|\bhave no)\b"
    rf"|(?:{_SORRY}.{{0,20}}?\b|(?:very |so )?sorry[,.!]? (?:but )?)i"
    rf"(?: {_CANNOT}|(?: am|'m) (?:unable|not able)| do(?: not|n't) have the (?:cap)?ability)\b"
    rf"(?!(?: to)?{_SHOPS_NO})"
    rf"|(?:unfortunately,? )?i(?: {_CANNOT}|(?: am|'m) (?:unable|not able) to)"
    rf"(?!{_SHOPS_NO}) (?:assist|help|comply|fulfill|provide|create|generate)\b"
    rf"|{_SORRY_ZH}[,。!]?\s?(?:但是?)?(?:作为.{{0,15}}?,\s?)?我(?:无法|不能|没有)"
    r"(?!再?[给为]?[您你]?们?再?(?:更低|更多优惠|降价|打折|便宜))"
    rf"|{_MODEL_ZH}.{{0,20}}?(?:无法|不能|没有|不具备)"
)


def is_canned(plain: str) -> bool:
    """Whether a training answer, which went through `same`, begins as chat programs refuse.

    Also "As an AI, I have no feelings": a row to look at, though nothing is refused in it.
    """
    return bool(_CANNED.match(plain.replace("\u2019", "'")))


class Outcome(StrEnum):
    """What became of a prompt."""

    REFUSED = "refused"
    ANSWERED = "answered"  # nonsense in words, too: no pattern tells it from an answer
    EMPTY = "empty"  # no letter and no digit: neither refused nor answered


def outcome(answer: str) -> Outcome:
    """What an answer makes of its prompt."""
    if is_blank(answer) or not _SAYS_SOMETHING.search(answer):
        return Outcome.EMPTY
    return Outcome.REFUSED if refuses(answer) else Outcome.ANSWERED


def refuses(answer: str) -> bool:
    """Whether an answer begins with a refusal, at once or after a sentence that leads up to it."""
    plain = _MARKS.sub("", same(answer).replace("\u2019", "'"))
    return bool(_ENGLISH.match(plain) or _CHINESE.match(plain))


_SAYS_SOMETHING = re.compile(r"[^\W_]")
_MARKS = re.compile(r"""^[^\w"“「『]+""")  # of Markdown, or an emoji; what begins in quotes is somebody else's refusal


def _one_of(*phrases: str) -> str:
    """A pattern for any of some phrases; a comma parts them too."""
    return f"(?:{'|'.join(phrase for listed in phrases for phrase in listed.split(', '))})"


# What can be refused. "I can't wait" and "I can't help smiling" refuse nothing.
_DEED = " " + _one_of(
    r"assist, aid, provide, offer, share, comply, fulfill?, create, generate, write, produce, support, encourage",
    r"condone, promote, endorse, facilitate, engage, participate, take part, be (?:a )?part, discuss, teach, show you",
    r"advise, answer, satisfy, guide, instruct, walk you, complete (?:that|this|your|the), go along, carry out",
    r"give(?! up)",
    r"help(?! but\b| (?:feel|think|laugh|smil|notic|wonder|lov|lik|admir|fall|cry)\w*), recommend(?!.*? enough\b)",
    r"(?:tell you|explain|describe)(?! how (?:much|glad|happy|grateful|sorry)), do (?:that|this|so)(?! any ?more)",
)
# What can follow "I'm sorry, I can't" without a refusal.
_NO_DEED = " " + _one_of(
    "wait, believe, imagine, stress, emphasi[sz]e, overstate, thank, recall, remember, understand, think, see, hear",
    "stand, afford, make it, be (?:certain|sure), tell (?:if|whether|the difference)",
    "say (?:for (?:certain|sure)|whether|if)",
)
# "I can't give medical advice, but …": a caution, and the answer follows.
_CAUTION = r".{0,60}\b(?:advice|diagnos\w+|opinions?|counsel)\b.{0,40}?\b(?:but|however|here|though|in general)\b"
_WILL_NOT = r"(?:will not|won't)"
_ALLOWED = _one_of("allowed, permitted, programmed, designed, authori[sz]ed, going, willing, able, in a position")
_UNABLE = _one_of(
    rf" (?:simply |just )?{_CANNOT}(?: (?:and|or) {_WILL_NOT})?",
    rf" {_WILL_NOT}(?: (?:and|or) {_CANNOT}| be able to)?",
    r" (?:could|would)(?: not|n't) (?:be able to|in good conscience)",
    rf"(?: am|'m)(?: just| simply| really)? (?:unable|unwilling|not {_ALLOWED}) to",
)
_I_CANNOT = (
    rf"(?:i|we){_UNABLE}(?: (?:simply|just|ever|possibly|really|directly|ethically|legally|in good conscience))*"
    rf"(?!{_CAUTION})(?!{_SHOPS_NO})"
)
_REGRET = rf"(?:{_SORRY}|sorry|i apologi[sz]e|my apologies)(?: about that| for (?:that|this|the inconvenience))?"
_RULES = r"(?:\w+ )?(?:guidelines?|programming|polic(?:y|ies)|principles|values)\b"
_IT_IS, _THING = r"(?:that|this|it)(?:'s| is)(?: simply| just)?", r"(?:something|a request|a topic)(?: that)?"
_ENGLISH_REFUSAL = "|".join(
    (
        rf"{_I_CANNOT}{_DEED}\b",
        rf"{_REGRET}[,.;:!]? (?:-+ )?(?:but |however,? )?(?:as an? [^,]{{0,40}}, )?{_I_CANNOT}(?!{_NO_DEED}\b)",
        r"i (?:(?:must|have to|need to|will have to|would have to) )?(?:\w+ly )?(?:decline|refuse)\b(?! to believe)",
        r"i(?:'ll have| am going| am forced|'m going|'m forced) to (?:decline|refuse)\b",
        r"i(?:(?: am|'m) not| do not feel| don't feel) comfortable\b",
        r"i (?:do not|don't) (?:provide|assist|condone|encourage|endorse|promote|engage in|help with|share|offer)\b",
        r"i (?:do not|don't) have the (?:cap)?ability to\b",
        rf"{_IT_IS} not {_THING} (?:i|we) can{_DEED}\b",
        rf"{_IT_IS} {_THING} {_I_CANNOT}{_DEED}\b",
        rf"my {_RULES} (?:do not|don't|does not|doesn't|prevents?|prohibits?|forbids?)\b",
        rf"(?:that|this|it|your request)(?:'s| is| goes| would be| would go) against (?:my|our) {_RULES}",
        rf"your request {_CANNOT} be (?:fulfilled|completed|answered|processed)\b",
    )
)
_POLITE = _one_of(
    "thanks?, thank you, hello, hi, hey, no, nope, sorry, unfortunately, regrettably, my apologies, absolutely not",
    "as an? (?:ai|large|language|assistant|responsible), your (?:safety|request|question), what you(?:'re| are)",
    "please (?:understand|know|note|be aware), let me be clear, to be clear",
    "(?:that|this|it)(?:'s| is| sounds| would be)",
    "i(?:'m| am| apologi[sz]e| understand| appreciate| hear| see| know| reali[sz]e| get| want| wish|'d| would)",
)
_WRONG = _one_of(
    "illegal, against the law, dangerous, harmful, unethical, immoral, wrong, a crime, unsafe, inappropriate",
    "unacceptable",
)
_LEAD = r"[^\"“”「」]"  # nobody is quoted in what leads up to a refusal
_ENGLISH = re.compile(
    rf"(?:(?:{_POLITE}\b{_LEAD}{{0,200}}?|{_LEAD}{{0,120}}?\b{_WRONG}\b{_LEAD}{{0,80}}?)"
    r"(?:[,.;:!?—–-]+ ?|\b)(?:\b(?:but|however|and|so|therefore|because|that),? )*(?<!\w)(?<!\bif ))?"
    rf"\b(?:{_ENGLISH_REFUSAL})"
)

_UNABLE_ZH = _one_of("无法, 不能够?, 不可以, 不会, 不便, 没有?办法, 没法, 拒绝, 不愿意?, 不得不拒绝, 必须拒绝")
_DEED_ZH = r"(?:在任何情况下)?(?:再|继续|直接|以任何(?:方式|形式))?" + _one_of(
    "为(?!了|什么|难), 给, 向, 帮, 替[你您], 就此, 对此, 协助, 提供, 回答, 回复, 满足, 支持, 参与, 教, 告诉, 透露",
    "撰?写, 编写, 生成, 创作, 执行, 配合, 讨论, 分享, 介绍, 解释, 推荐, 鼓励, 这[样么]做, 那[样么]做, 答应, 接受",
    "处理, 完成[这您你]",
)
_NO_DEED_ZH = r"(?:想象|理解|确定|相信|忍受|体会|再?[给为]?[您你]?们?再?(?:更低|更多优惠|降价|打折|便宜))"
_I_ZH = r"我(?:们|也|真的|实在|绝对|恐怕|很|目前|现在|确实|是)*"
_REGRET_ZH = rf"(?:(?:我们?)?(?:感到)?{_SORRY_ZH}|不好意思|很?遗憾(?:的是)?|请(?:您|你)?(?:原谅|见谅|谅解))"
_CHINESE_REFUSAL = "|".join(
    (
        rf"{_I_ZH}{_UNABLE_ZH}{_DEED_ZH}",
        rf"{_REGRET_ZH}[,。!;:]?\s?(?:但是?|不过)?,?(?:作为.{{0,15}}?,\s?)?(?:{_I_ZH}|这个?|恐怕|暂时|目前)?"
        rf"{_UNABLE_ZH}(?!{_NO_DEED_ZH})",
        r"恕我?(?:无法|不能|难以?从命|难以)",
        rf"(?:这|此|该|您的|你的)[^,。]{{0,12}}(?:请求|要求|问题|内容|信息|事情?|忙),?(?:{_I_ZH}|恕){_UNABLE_ZH}",
        rf"(?:无法|不能){_DEED_ZH}(?:此|这|该|相关|任何|您|你)",
        rf"{_MODEL_ZH}[^,。]{{0,12}},?\s?(?:{_I_ZH})?{_UNABLE_ZH}{_DEED_ZH}",
    )
)
_POLITE_ZH = _one_of(
    "你好, 您好, 谢谢, 感谢, 非常感谢, 很?高兴, 听到, 看到, 不行, 不可以, 不(?=[,。!]), 作为, 请注意, 首先",
    "我(?:很|能|可以|完全|非常|十分)*(?:理解|明白|知道|了解|听到)",
    _REGRET_ZH,
)
_WRONG_ZH = _one_of("违法, 非法, 犯罪, 犯法, 危险, 有害, 不道德, 不合法, 不正确, 错误, 不对的, 法律, 伤害")
_CHINESE = re.compile(
    rf"(?:(?:{_POLITE_ZH}{_LEAD}{{0,100}}?|{_LEAD}{{0,60}}?{_WRONG_ZH}{_LEAD}{{0,60}}?)[,。!;:?]\s?"
    r"(?:但是?|不过|然而|可是|因此|所以|因为|而且)?,?\s?)?"
    rf"(?:{_CHINESE_REFUSAL})"
)
