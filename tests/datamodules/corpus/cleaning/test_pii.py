import json
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.cleaning.pii import KINDS, PII, PLACEHOLDERS
from datamodules.corpus.cleaning.pii_patterns import luhn
from datamodules.errors import DataError

PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow+/abc=" * 6 + "\n-----END RSA PRIVATE KEY-----"
LETTERS = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY"

FOUND = {
    "email": [
        "jane.doe+news@mail.uni-bonn.de",
        "x@y.org",
        "A_B%c@sub.domain.co.uk",
    ],
    "ip": ["52.8.4.40", "93.184.216.34", "2001:4860:4860::8888", "2a00:1450:4001:81b:0:0:0:200e"],
    "phone": [
        "+44 20 7946 0958",
        "+44 (0)20 7946 0958",
        "+49 171 1234567",
        "+14155552671",
        "+1-415-555-2671",
        "+48 601 123 456",
        "0049 171 1234567",
        "(415) 555-2671",
        "415-555-2671",
        "415.555.2671",
        "1-800-555-2671",
        "1 (415) 555-2671",
        "01 23 45 67 80",
        "01.42.68.53.00",
        "020 7946 0958",
        "(020) 7946 0958",
        "030/12345678",
        "07700 900123",
        "03-1234-5678",
    ],
    "credit_card": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0055-5555-5559",
        "3782 822463 10005",
        "378282246310005",
        "6011000990139424",
        "30569309025904",
        "3530111333300000",
        "2223003122003222",
    ],
    "iban": ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32", "NO9386011117947"],
    "key": [
        "AKIA" + "ABCDEFGH12345678",
        "ghp_" + LETTERS + "abcd",
        "github_pat_" + LETTERS + "_" + LETTERS,
        "sk-" + LETTERS + LETTERS[:16],
        "sk-ant-api03-" + LETTERS + "-_" + LETTERS,
        "sk-proj-" + LETTERS,
        "AIza" + LETTERS + "-_3",
        "xoxb-123456789012-123456789012-" + LETTERS[:24],
        "sk_" + "live_" + LETTERS[:24],
        "hf_" + LETTERS + "ab",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + LETTERS,
        PEM,
    ],
}

KEPT = [
    # e-mail
    "jane@example.com", "root@localhost", "icon@2x.png", "git@github.com:owner/name", "@decorator.name", "a @ b.com",
    "body@filter.0.ledeMedia", "user@test",
    # addresses of no one, versions, sections, dates, times
    "192.168.1.1", "10.0.0.1", "127.0.0.1", "169.254.3.4", "192.0.2.17", "198.51.100.7", "203.0.113.9", "224.0.0.251",
    "1.2.3.4", "8.2.4.45", "300.1.2.3", "version 93.184.216.34", "v93.184.216.34", "1.3.6.1.4.1.311",
    "93.184.216.34.in-addr.arpa", "::1", "fe80::1", "fd00::1234:5678", "2001:db8::1:2", "std::vector", "12:30:45",
    "a[2000::3]",
    # numbers that are neither telephone nor card
    "2024-01-31", "31.01.2024 12:30", "01/02/2003", "978-0-306-40615-7", "0-306-40615-2", "ISBN 9780306406157",
    "555-1234", "3.14159265358979", "+4294967296", "+35236450.6", "+1000000000", "1,234,567,890", "123-45-6789",
    "01 02 03 04 05", "2000 01 01 00 00 00 1", "1234567890", "2023-01-01T00:00:00+01:00", "115-555-2671",
    "4111111111111112", "1234567812345670", "0000 0000 0000 0000", "0.4111111111111111", "41111111-11111111",
    "DE88370400440532013000", "DE8937040044053201300", "XX89370400440532013000", "de89370400440532013000",
    # like keys
    "AKIAIOSFODNN7EXAMPLE", "sk-estimator-doc-link-of-something-long", "sk-" + "a" * 30, "hf_short", "AKIA",
    "pk_" + "live_" + LETTERS[:24], "eyJ.eyJ.x", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
]  # fmt: skip


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string()), "source": ["s"] * len(texts)})


def applied(texts: list[str], stage: PII | None = None) -> tuple[list[str], list[dict[str, int]]]:
    batch = (stage or PII()).apply(batch_of(texts))
    batch.validate(full=True)
    return batch.column("text").to_pylist(), batch.column("pii").to_pylist()


def counts(**some: int) -> dict[str, int]:
    return dict.fromkeys(KINDS, 0) | some


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_found(kind: str, text: str) -> None:
    placeholder = PLACEHOLDERS[kind].decode()  # type: ignore[index]
    for before, behind in (
        ("", ""),
        ("Write or call: ", ", please."),
        ("(", ")"),
        ("\n", "\n\n"),
        ("\u4e2d\u6587", "\u3002"),
    ):
        after, count = applied([before + text + behind])
        assert after == [before + placeholder + behind]
        assert count == [counts(**{kind: 1})]


@pytest.mark.parametrize("text", KEPT)
def test_kept(text: str) -> None:
    for before, behind in (("", ""), ("See ", " there."), ('"', '"')):
        assert applied([before + text + behind])[0] == [before + text + behind]


def test_placeholders_are_no_special_tokens() -> None:
    assert not any(b"<" in placeholder or b"|" in placeholder for placeholder in PLACEHOLDERS.values())


def test_counts_are_of_one_document_and_kinds_can_be_chosen() -> None:
    texts = ["a@b.org, c@d.org and 93.184.216.34", "nothing", "", "call 415-555-2671"]
    after, count = applied(texts)
    assert after == ["[EMAIL], [EMAIL] and [IP]", "nothing", "", "call [PHONE]"]
    assert count == [counts(email=2, ip=1), counts(), counts(), counts(phone=1)]
    after, count = applied(texts, PII(kinds=("phone",)))
    assert after == [*texts[:3], "call [PHONE]"]
    assert applied([]) == ([], [])
    with pytest.raises(DataError, match="kinds are key, email"):
        PII(kinds=("name",))  # type: ignore[arg-type]


def test_what_a_replacement_brings_to_light_is_replaced() -> None:
    after, _ = applied(["x@y.org" + "415-555-2671", "415-555-2671@y.org"])
    assert applied(after)[0] == after


def test_nothing_is_found_across_documents() -> None:
    whole = [
        "jane@mail.org",
        "4111111111111111",
        "93.184.216.34",
        "DE89370400440532013000",
        "ghp_" + LETTERS + "abcd",
        PEM,
    ]
    for text in whole:
        for cut in range(1, len(text)):
            halves = [text[:cut], text[cut:]]
            assert applied(halves)[0] == [one for half in halves for one in applied([half])[0]]


PIECES = st.sampled_from(
    [text for texts in FOUND.values() for text in texts if len(text) < 60]
    + [*KEPT[:30], " ", ".", "-", "+", "@", "1", "00", "a", "\u00e9", ", ", "\n", "(", ")"]
)
TEXTS = st.lists(st.lists(PIECES, max_size=8).map("".join), max_size=5)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_twice_changes_nothing_and_each_document_stands_alone(texts: list[str]) -> None:
    after, count = applied(texts)
    assert applied(after) == (after, [counts()] * len(texts))
    assert [applied([text]) for text in texts] == [([one], [some]) for one, some in zip(after, count, strict=True)]


@given(st.text("0123456789", min_size=1, max_size=30))
def test_luhn(digits: str) -> None:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value // 10 + value % 10
    assert luhn(digits.encode()) == (total % 10 == 0)


@pytest.mark.parametrize(
    "piece",
    [
        "@", "a@", "a.", "a@a.", "1", "1 ", "1-", "+1 ", "(1)", "1.", "1.1.1.1.", "2000:", "::", "DE11", "A1 ", "sk-",
        "eyJ", "eyJa.", "-----BEGIN PRIVATE KEY-----", "-----BEGIN A PRIVATE KEY-----AAAA", "4111 1111 ", "0", "ghp_",
        "01 23 45 67 80 ", "x@y.org", "93.184.216.34-415-555-2671-", "00 11 ",
    ],
)  # fmt: skip
def test_no_text_makes_it_slow(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    start = time.process_time()
    applied([text])
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", ["novels", "c4-sample"])
def test_real_prose_holds_only_what_is_meant(name: str, shared_data: Path) -> None:
    if name == "novels":
        texts = [path.read_text() for path in sorted((shared_data / name).glob("*.txt")) if path.name != "SOURCE.txt"]
        expected = counts(email=2, phone=1)  # of the licence behind one of them
    else:
        texts = [json.loads(line)["text"] for line in (shared_data / name / "c4_demo.jsonl").open()]
        expected = counts(email=7, phone=24)  # read one by one: all are what they are taken for
    found = applied(texts)[1]
    assert {kind: sum(one[kind] for one in found) for kind in KINDS} == expected
