"""What looks like a key or a person's data, and above all what does not."""

import time

import pytest

from stages.lib.detectors import DETECTORS, NAMES, find


def found(text):
    return [(hit.detector.kind, text[hit.start : hit.end]) for hit in find(text)]


# Put together here so that no scanner takes this file for a leak.
GITHUB = "ghp_" + "a1B2" * 9
GITHUB_FINE = "github_pat_" + "11AAAAAAA0" * 3
SLACK = "xoxb-" + "2048204820-2048204820-abcdEFGHijkl"
OPENAI = "sk-" + "proj-" + "Zx9" * 14
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NSJ9" + ".dQw4w9WgXcQdQw4w9WgXcQ"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("aws-key", "AKIAIOSFODNN7EXAMPLE"),
        ("aws-secret", "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY"),
        ("github-token", GITHUB),
        ("github-token", GITHUB_FINE),
        ("slack-token", SLACK),
        ("openai-key", OPENAI),
        ("openai-key", "sk-" + "a1" * 24),
        ("hugging-face-token", "hf_" + "AbCd" * 9),
        ("jwt", JWT),
        ("private-key", PEM),
        ("private-key", "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg"),  # cut off before its end
    ],
)
@pytest.mark.parametrize("sentence", ["Use {} now.", "密钥是{}，别外传", "{}"])
def test_secrets_are_found_in_english_and_chinese(sentence, kind, secret):
    assert [name for name, _ in found(sentence.format(secret))] == [kind]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "anna.lee@fjordpost.com"),
        ("email", "a_b+shop@mail.example.co.uk"),
        ("email", "zhang3@qq.com"),
        ("email", "josé@acme.com"),
        ("email", "info@müller.de"),
        ("email", "anna@почта.рф"),
        ("email", "info@пример-магазин.бел"),
        ("email", "zhang3@公司.中国"),
        ("email", "zhang3@mail.fjordpost.公司"),
        ("email", "li@例子.com"),
        ("email", "anna@xn--80a1acny.xn--p1ai"),
        ("phone", "+1.415.555.2671"),
        ("phone", "+1 415.555.2671"),
        ("phone", "+49.30.901820"),
        ("phone", "+33.1.23.45.67.89"),
        ("phone", "+45.12.34.56.78"),
        ("phone", "+86.138.0013.8000"),
        ("phone", "+1 202 555 0143"),
        ("phone", "+49 (30) 901820"),
        ("phone", "+8613800138000"),
        ("phone", "+86 138 0013 8000"),
        ("phone", "13800138000"),
        ("phone", "138-0013-8000"),
        ("phone", "(202) 555-0143"),
        ("phone", "202-555-0143"),
        ("phone", "415.555.2671"),
        ("phone", "415 555 2671"),
        ("phone", "1 415 555 2671"),
        ("phone", "010-62345678"),
        ("phone", "0571-87654321"),
        ("phone", "(0571)87654321"),
        ("phone", "010-62345678-801"),
        ("card", "4111 1111 1111 1111"),
        ("card", "4111111111111111"),
        ("card", "5555-5555-5555-4444"),
        ("card", "3782 822463 10005"),
        ("card", "6200000000000005"),  # UnionPay
        ("id-number", "11010519491231002X"),
        ("ip-address", "8.8.4.4"),
        ("ip-address", "203.119.25.1"),
        ("ip-address", "2001:4860:4860::8888"),
        ("phone", "１３８００１３８０００"),  # full width
    ],
)
@pytest.mark.parametrize("sentence", ["Reach me at {}, please.", "请联系{}，谢谢", "{}", "电话：{}。"])
def test_personal_data_is_found_in_english_and_chinese(sentence, kind, value):
    assert found(sentence.format(value)) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "Order ORD-20417 is late",
        "订单ORD-20417还没到",
        "order 13800138000 has not arrived",  # as long as a mobile number, but the shop's own
        "order number is 13812345678",
        "Tracking number: 415-555-2671",
        "订单号：13912345678",
        "运单 4111111111111111",
        "ORD-13800138000",
        "KT31852 and 20417731",
        "ISO 2026-11-25T03:14:02+08:00",
        "on 2026-11-25 or 25/11/2026 or 20261125",
        "2023-03-04 to 2023-03-05",
        "It costs 1,299.00 USD, not 1299.99",
        "¥13800138000",
        "13800138000.50",
        "13812345678元",
        "13812345678 yuan",
        "+1 000 000 000 in sales",
        "+86 100 000 000 元",
        "+1 555 555 5555",
        "555-555-5555",  # nobody's: no area has the code 555
        "250 300 4000",
        "250 320 4000 5000",
        "1 250 320 4000 5000",
        "100 250 320 4000",
        "0571-17654321",  # no landline begins with 1
        "021-6234567",
        "a total of +150,000,000 in sales",
        "+100.25 200.50 300.75",
        "temperatures of +12 and +15 degrees",
        "ISBN 978-3-16-148410-0",
        "+1.234.567.890 people and +12.345.678,50 EUR and +1.000.000.000",  # dots between thousands
        "+1 234.567.890",
        "+3.14159265358979 and +1.4155552671",  # one dot: a decimal
        "+1.5.3.2048 and +2.31.0.1.20240131 and 1.0.0+20.10.2048.3000",
        "version +14.18.2024.30512",
        "+10.200.130.140",
        "+25.11.2026 and +01.12.2025",
        "+1.555.555.5555 and +1.15.555.26711",
        "+1.415.555.2671.415.555.2671",
        "+12 34567890.12",
        "5@шт.итого 7@кг.нетто",  # a full stop without its blank
        "@почта.рф and user@сервер and a@почта.рфы and a@公司 and 5@件.共",
        "info@example.рф.example",
        "4111 1111 1111 1112",  # fails Luhn's check
        "1234567812345670",  # passes it, but nobody issues such cards
        "11010519491231002A",
        "110105194912310021",  # a wrong check digit
        "1700000000000 milliseconds",
        "3.141592653589793",
        "192.168.100.200",
        "10.0.0.1 and 127.0.0.1 and 0.0.0.0",
        "192.0.2.7 and 2001:db8::1",  # RFC 5737 and RFC 3849: for examples
        "version 4.18.0.305 and v8.8.4.4 and 版本8.8.4.4",
        "1.2.3.4.5 and 999.1.1.1",
        "12:30:45 and 10:20 and fe:dc and std::vector::size",
        "call 112",
        "support@example.com",  # RFC 2606: example domains belong to nobody
        "x@shop.example and y@my.test and z@localhost",
        "git@github.com:retune/retune.git",
        "icon@2x.png",
        "user@host",
        "@app.route and user @ home",
        "sk-learn-2-for-complete-beginners",
        "task-a1b2c3d4e5f6g7h8i9j0k1l2",
        "an AKIA is a plant",
        "xoxb-",
        "eyJ is how a token begins",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "",
    ],
)
def test_a_shops_everyday_numbers_and_words_are_left_alone(text):
    assert found(text) == []


def test_an_address_ends_where_chinese_text_goes_on_without_a_blank():
    text = "写信到bo@fjordpost.com或访问www.fjordpost.com，或zhang3@例子.中国谢谢您"
    assert found(text) == [("email", "bo@fjordpost.com"), ("email", "zhang3@例子.中国")]


def test_of_two_finds_in_one_place_the_larger_counts():
    assert found("4111 1111 1111 1111 or +86 138 0013 8000") == [
        ("card", "4111 1111 1111 1111"),
        ("phone", "+86 138 0013 8000"),
    ]


@pytest.mark.parametrize(
    ("text", "finds"),
    [
        (f"https://{GITHUB}@github.com/x", [("github-token", GITHUB)]),  # as an e-mail address it would be longer
        (
            f"+49 30 901820, {GITHUB}@github.com, anna@fjordpost.com",
            [("phone", "+49 30 901820"), ("github-token", GITHUB), ("email", "anna@fjordpost.com")],
        ),
    ],
)
def test_a_secret_wins_over_the_personal_data_that_it_is_part_of(text, finds):
    assert found(text) == finds


def test_a_private_key_ends_before_the_next_begins():
    begin = "-----BEGIN PRIVATE KEY-----"
    assert found(f"{begin}! {PEM}") == [("private-key", begin), ("private-key", PEM)]


def test_many_beginnings_of_private_keys_take_no_longer_than_other_text():
    began = time.process_time()
    assert len(found("-----BEGIN PRIVATE KEY-----!" * 8_000)) == 8_000
    assert time.process_time() - began < 5  # it took half a minute, with each looking for its end up to the text's


@pytest.mark.parametrize(
    "piece",
    ["+1.1", "+1.415.555", "+1.11.11", ".11", "+33.1.23.45.67", "a@", "a@b.", "a@公司.", "公司.", ".рф", "x@рф.рф"],
)
def test_no_row_of_like_pieces_takes_long(piece):
    text = "+1" + piece * (1_000_000 // len(piece))
    began = time.process_time()
    list(find(text))
    assert time.process_time() - began < 5


def test_a_sentence_can_name_whatever_is_found():
    assert NAMES.keys() == {detector.kind for detector in DETECTORS}
