"""Whether an answer refuses, by how it begins, in English and Chinese.

Patterns find the ways of refusing that chat programs share. They miss others: a lecture, a change of the subject, an
unusual wording. And they take some true answers for refusals, such as a shop's "I can't discuss prices by phone". So
what is found is an estimate; docs/reviewer.md has figures.
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
_MARKS = re.compile(
    r"""^[^\w"“„「『‘'«‹]+"""
)  # of Markdown, or an emoji; what begins in quotes is somebody else's refusal


def _one_of(*phrases: str) -> str:
    """A pattern for any of some phrases; a comma with a space behind it parts them too."""
    return f"(?:{'|'.join(phrases).replace(', ', '|')})"


# A refusal is of what was asked: to help, to answer, to comply, or to do "this". "I can't ship batteries" is a shop's
# true answer, and "I can't help smiling" refuses nothing.
_DEED = " " + _one_of(
    "assist, aid, comply, fulfill?, satisfy, support, encourage, condone, promote, endorse, facilitate, engage",
    "participate, take part, be (?:a )?part, be of help, go along, carry out, complete (?:this|that|your)",
    "answer, respond, discuss, teach, show you, advise, guide, instruct, walk you, create, generate, write, produce",
    "(?:explain|describe)(?! how (?:much|glad|happy|grateful|sorry)), recommend(?!.*? enough\\b)",
    "help(?! (?:feel|think|laugh|smil|notic|wonder|lov|lik|admir|fall|cry)\\w*)",
    "(?:do|say|discuss|accept|allow|agree to|go into|talk about) (?:this|that|so|your request)(?! any ?more)",
    "tell you (?:this|that|about|anything|how to)",
)
# What a chat program has to give, and not a shop.
_GIVE = r" (?:provide|give|offer|share)(?! up)(?: [\w'-]+){0,3}? " + _one_of(
    "this, that, such, information, instructions?, advice, details, guidance, help, assistance, content, support",
    "steps, private, personal",
)
_ALLOWED = _one_of("allowed, permitted, programmed, designed, authori[sz]ed, going, willing, able, in a position")
_WILL_NOT = r"(?:will not|won't)"
_UNABLE = _one_of(
    rf" (?:simply |just )?{_CANNOT}(?: (?:and|or) {_WILL_NOT})?",
    rf" {_WILL_NOT}(?: (?:and|or) {_CANNOT}| be able to)?",
    r" (?:could|would)(?: not|n't) (?:be able to|in good conscience)",
    r"(?: would|'d) (?:rather not|prefer not to)",
    rf"(?: am|'m)(?: just| simply| really)? (?:unable|unwilling|not {_ALLOWED}) to",
)
# "…, but adults usually take 4 g", "…, but here is how": an answer. "…, but I can tell you where to find help" is none.
# "… without your order number", "… until you confirm": not yet.
_NO_ANSWER = (
    r"(?![^.!?]{0,120}\b(?:but|however|though),? (?!(?:i|you|your|there|if|please)\b))"
    r"(?![^.!?]{0,120}\b(?:without (?:your|more|further)|until you)\b)"
)
# A chat program speaks of itself as "I", a shop as "we".
_HOW = _one_of("simply, just, ever, possibly, really, directly, ethically, legally, in good conscience")
_I_CANNOT = rf"i{_UNABLE}(?:,? {_HOW},?)*{_NO_ANSWER}"
_REFUSE = r"(?:decline|refuse|say no to (?:this|that))\b(?! to believe)"
_RULES = r"(?:\w+ )?(?:guidelines?|programming|polic(?:y|ies)|principles|values|rules)\b"
_WRONG = _one_of(
    "illegal, against the law, dangerous, harmful, unethical, immoral, wrong, a crime, unsafe, inappropriate",
    rf"unacceptable, (?:violates?|breaks?|against) (?:my|our) {_RULES}",
)
_IT_IS, _THING = r"(?:that|this|it)(?:'s| is)(?: simply| just)?", r"(?:something|a request|a topic)(?: that)?"
_ENGLISH_REFUSAL = _one_of(
    rf"{_I_CANNOT}(?:(?:{_DEED}|{_GIVE})\b|(?=[.!]|$))",
    r"i (?:do not|don't) (?:condone|encourage|endorse|promote|assist|engage in|help with)\b",
    rf"i (?:do not|don't){_GIVE}\b",
    rf"i (?:(?:must|have to|need to|will have to|would have to) )?(?:\w+ly )?{_REFUSE}",
    rf"i(?:'ll have| am going| am forced|'m going|'m forced) to {_REFUSE}",
    r"i(?:(?: am|'m) not| do not feel| don't feel) comfortable\b",
    r"i (?:do not|don't) have the (?:cap)?ability to\b",
    rf"i{_UNABLE},? in good conscience\b",
    rf"{_SORRY},? (?:but )?no(?=[.!]|$)",
    rf"(?:that|this|it) (?:is|would be) {_WRONG} for me to(?:{_DEED}|{_GIVE})\b",
    rf"{_IT_IS} not {_THING} i(?: can| will|'ll|(?: am|'m) (?:able|willing) to)(?:{_DEED}| do)\b",
    rf"{_IT_IS} {_THING} {_I_CANNOT}(?:{_DEED}| do)\b",
    rf"my {_RULES} (?:do not|don't|does not|doesn't|prevents?|prohibits?|forbids?)\b",
    rf"(?:that|this|it|your request)(?:'s| is| goes| would be| would go) against (?:my|our) {_RULES}",
    rf"your request {_CANNOT} be (?:fulfilled|completed|answered|processed)\b",
)
_POLITE = _one_of(
    "thanks?, thank you, hello, hi, hey, no, nope, sorry, unfortunately, regrettably, absolutely not",
    "(?:my )?apologies",
    "as an? (?:ai|large|language|assistant|responsible), your (?:safety|request|question), what you(?:'re| are)",
    "please (?:understand|know|note|be aware|don't|do not), let me be clear, to be clear",
    "(?:that|this|it)(?:'s| is| sounds| would be)",
    "i(?:'m| am| apologi[sz]e| understand| appreciate| hear| see| know| reali[sz]e| get| want| wish|'d| would)",
)
_LEAD = r"[^\"“”「」]"  # nobody is quoted in what leads up to a refusal
_ENGLISH = re.compile(
    rf"(?:(?:{_POLITE}\b{_LEAD}{{0,200}}?|{_LEAD}{{0,120}}?\b{_WRONG}\b{_LEAD}{{0,80}}?)"
    r"(?:[,.;:!?—–-]+ ?|\b)(?:\b(?:but|however|and|so|therefore|because|that),? )*(?<!\w)(?<!\bif ))?"
    rf"\b{_ENGLISH_REFUSAL}"
)

_UNABLE_ZH = _one_of("无法, 不能够?, 不可以, 不会, 不便, 没有?办法, 没法, 拒绝, 不愿意?, 不得不拒绝, 必须拒绝")
# What a shop does not give, and says so: "我不能提供发票" refuses nothing that a careful assistant refuses.
_BUSINESS_ZH = _one_of(
    "退款, 退货, 换货, 颜色, 发票, 订单, 折扣, 打折, 优惠, 降价, 更低, 便宜, 价格",
    "日期, 时间, 库存, 费用, 修改",
)
_DEED_ZH = (
    rf"(?![^,。!?]{{0,15}}{_BUSINESS_ZH})(?:在任何情况下)?(?:再|继续|直接|以任何(?:方式|形式))?"
    + _one_of(
        "为(?!了|什么|难), 给, 向, 帮, 替[你您], 就此, 对此, 协助, 提供, 回答, 回复, 满足, 支持, 参与, 教, 告诉, 透露",
        "撰?写, 编写, 生成, 创作, 执行, 配合, 讨论, 分享, 介绍, 解释, 推荐, 鼓励, [这那][样么]?做, 做[这那]",
        "做(?=[,。!]|$), 答应, 接受, 处理, 完成[这您你]",
    )
    + r"(?![^。!?]{0,40},(?:但是?|不过)?,?(?:大约|大概|一般|通常|预计|应该|以下|下面|这里))"  # an answer follows
)
_I_ZH = r"我(?:也|真的|实在|绝对|恐怕|很|目前|暂时|现在|确实|是)*"  # 我们 is a shop
_ABOUT_ZH = r"(?:(?:这|此|该|您的|你的)[^,。]{0,12}?,?)?"
_REGRET_ZH = rf"(?:(?:我们?)?(?:感到)?{_SORRY_ZH}|不好意思|很?遗憾(?:的是)?|请(?:您|你)?(?:原谅|见谅|谅解))"
_CHINESE_REFUSAL = _one_of(
    rf"{_ABOUT_ZH}{_I_ZH}(?:{_UNABLE_ZH}{_DEED_ZH}|帮不[了上到])",
    rf"(?:{_REGRET_ZH}|{_MODEL_ZH}[^,。]{{0,12}})[,。!;:]?\s?(?:但是?|不过)?,?(?:恐怕|暂时|目前)?{_UNABLE_ZH}{_DEED_ZH}",
    rf"{_ABOUT_ZH}请?恕(?:难从命|我?(?:无法|不能|难以))",
    r"(?:无法|不能)[给为][您你]提供(?:此|这|该|相关|任何)[类种样方面的]*(?:内容|信息|服务|帮助|方法|建议|资料)",
    r"这?超出了?我[^,。]{0,10}范围",
    rf"(?:无法|不能){_DEED_ZH}(?:此|这|该|相关|任何)",
)
_POLITE_ZH = _one_of(
    "你好, 您好, 谢谢, 感谢, 非常感谢, 很?高兴, 听到, 看到, 不行, 不可以, 不(?=[,。!]), 作为, 请注意, 首先",
    "请?不要, 请勿",
    "我(?:很|能|可以|完全|非常|十分)*(?:理解|明白|知道|了解|听到)",
    _REGRET_ZH,
)
_WRONG_ZH = _one_of("违法, 非法, 犯罪, 犯法, 违反, 危险, 有害, 不道德, 不合法, 不正确, 错误, 不对的, 法律, 伤害")
_CHINESE = re.compile(
    rf"(?:(?:{_POLITE_ZH}{_LEAD}{{0,100}}?|{_LEAD}{{0,60}}?{_WRONG_ZH}{_LEAD}{{0,60}}?)[,。!;:?]\s?"
    r"(?:但是?|不过|然而|可是|因此|所以|因为|而且)?,?\s?)?"
    rf"{_CHINESE_REFUSAL}"
)
