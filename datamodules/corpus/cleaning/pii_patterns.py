"""What personal data and secrets look like: one finder a kind, over the bytes of a short stretch of text.

Every expression is linear: repetitions are bounded or possessive, and no two of them can share a byte. A finder yields
the spans (start, end) that count; what an expression cannot say (checksums, reserved ranges) is checked behind it.
"""

import ipaddress
import re
from collections.abc import Iterator

Spans = Iterator[tuple[int, int]]

# E-mail: RFC 5321 lengths (64 bytes before the "@"), ASCII alone.
_EMAIL = re.compile(
    rb"(?<![A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9@_-])"
)
_RESERVED_DOMAIN = re.compile(
    rb"(?i)(?:^|[.@])(?:example\.(?:com|net|org)|test|example|invalid|localhost|local)$"
)  # RFC 2606
_FILE_ENDING = re.compile(rb"(?i)\.(?:png|jpe?g|gif|svg|webp|ico|pdf|css|js|json|html?|txt|xml)$")  # icon@2x.png

_IPV4 = re.compile(rb"(?<![\w.+-])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\w|-[A-Za-z])")
_IPV6 = re.compile(rb"(?<![\w:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])")
_VERSION = re.compile(rb"(?i)(?:\bv|\bver|version|release|\brev|build|section|chapter|firmware|\boid)[ .:=]{0,2}$")
_VERSION_BEFORE = 16  # bytes in which such a word is looked for

_CARD = re.compile(
    rb"(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})(?!\w|[.-]\d)"
)
# Issuers by their first digits, and the lengths of their numbers (ISO/IEC 7812 ranges as the issuers publish them).
_ISSUERS = (
    (re.compile(rb"4"), (13, 16, 19)),  # Visa
    (re.compile(rb"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(rb"3[47]"), (15,)),  # American Express
    (re.compile(rb"6011|64[4-9]|65"), (16, 19)),  # Discover
    (re.compile(rb"30[0-5]|36|3[89]"), (14,)),  # Diners Club
    (re.compile(rb"352[89]|35[3-8]"), (16,)),  # JCB
    (re.compile(rb"62"), (16, 19)),  # UnionPay
)

_IBAN = re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,40}+")
# Length by country: SWIFT's IBAN registry.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM TL SO",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip

_PHONE = re.compile(
    rb"(?<![\w.+/=*-])(?:"
    rb"(?P<world>\+[1-9]\d*+(?:[ .-]?\(\d{1,4}\)[ .-]?\d++|[ .-]\d++)*+|00[1-9]\d{0,2}+(?:[ .-]\d++){2,6}+)"
    rb"|(?P<america>(?:1[ -]?)?\([2-9]\d\d\) ?[2-9]\d\d[ .-]\d{4}|(?:1[.-])?[2-9]\d\d([.-])[2-9]\d\d\3\d{4})"
    rb"|(?<!\d )(?P<pairs>0[1-9]([ .-])\d\d(?:\5\d\d){3})(?! \d)"
    rb"|(?<!\d )(?P<trunk>(?:\(0[1-9]\d{0,4}\) ?|0[1-9]\d{0,4}[ /-])\d{3,8}+(?:[ -]\d{2,5}+){0,2}+)(?! \d)"
    rb")(?!\w|[.-]\d)"
)
# Country codes that the ITU has assigned (list of codes of Recommendation E.164).
_COUNTRY = re.compile(
    rb"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|21[1-368]|22\d|23\d|24\d|25[0-8]|26\d|29[0179]"
    rb"|35\d|37[0-8]|38[0-35-79]|42[013]|50\d|59\d|67[02-9]|68[0-35-9]|69[0-2]|80[08]|85[02356]|87[0-48]|88[0-368]"
    rb"|96[0-8]|97[0-79]|99[2-68]"
)

_KEY = re.compile(
    rb"(?<![A-Za-z0-9])(?:"
    rb"(?:AKIA|ASIA)[A-Z0-9]{16}"  # Amazon Web Services
    rb"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"  # GitHub
    rb"|sk-(?:(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{20,255}|[A-Za-z0-9]{20,255})"  # OpenAI, Anthropic, OpenRouter
    rb"|AIza[A-Za-z0-9_-]{35}"  # Google
    rb"|xox[abeoprs]-[A-Za-z0-9-]{10,255}"  # Slack
    rb"|[sr]k_live_[A-Za-z0-9]{16,255}"  # Stripe
    rb"|hf_[A-Za-z0-9]{34}"  # Hugging Face
    rb"|eyJ[A-Za-z0-9_-]{10,2000}+\.eyJ[A-Za-z0-9_-]{10,8000}+\.[A-Za-z0-9_-]{10,2000}+"  # JSON web token, RFC 7519
    rb")(?![A-Za-z0-9])"
)
_PEM = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:[A-Za-z0-9+/=\s\\:,.()\"']|-(?!----)){40,20000}+"
    rb"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
)


def emails(text: bytes) -> Spans:
    """Addresses but for reserved domains (example.com, *.test), file names (icon@2x.png) and `git@host:path`."""
    for match in _EMAIL.finditer(text):
        address = match.group()
        domain_end = address.rsplit(b".", 1)[1]
        if not (domain_end.islower() or domain_end.isupper() or domain_end.istitle()):
            continue  # an attribute of a program: body@filter.0.ledeMedia
        of_git = address.startswith(b"git@") and text[match.end() : match.end() + 1] in (b":", b"/")
        if not (of_git or _RESERVED_DOMAIN.search(address) or _FILE_ENDING.search(address)):
            yield match.span()


def public_ipv4(text: bytes) -> Spans:
    """Addresses that `ipaddress` calls global; what begins with three single digits is read as a version or a section.

    So is what follows a word like "version".
    """
    for match in _IPV4.finditer(text):
        before = text[max(match.start() - _VERSION_BEFORE, 0) : match.start()]
        numbered = max(map(len, match.group().split(b".")[:3])) == 1 or _VERSION.search(before)
        if not numbered and _is_public(match.group()):
            yield match.span()


def public_ipv6(text: bytes) -> Spans:
    """Global addresses of 2000::/3, the only range that is given out (RFC 4291), with three groups written out."""
    for match in _IPV6.finditer(text):
        if sum(map(bool, match.group().split(b":"))) >= 3 and _is_public(match.group()):
            yield match.span()


def _is_public(address: bytes) -> bool:
    try:
        parsed = ipaddress.ip_address(address.decode())
    except ValueError:
        return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)


def credit_cards(text: bytes) -> Spans:
    """13 to 19 digits, in one piece or in the groups of a card, with an issuer's prefix and length and Luhn's check."""
    for match in _CARD.finditer(text):
        digits = re.sub(rb"\D", b"", match.group())
        issued = any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in _ISSUERS)
        if issued and luhn(digits):
            yield match.span()


def luhn(digits: bytes) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right doubled, the sum of all digits divisible by 10."""
    values = [byte - 0x30 for byte in reversed(digits)]
    return sum(values[0::2] + [2 * value - 9 * (value > 4) for value in values[1::2]]) % 10 == 0


def ibans(text: bytes) -> Spans:
    """ISO 13616: the country's length and the remainder 1 modulo 97, in one piece or grouped by blanks or hyphens."""
    for match in _IBAN.finditer(text):
        length, start = _IBAN_LENGTHS.get(match.group()[:2].decode(), 0), match.start()
        taken = [at for at in range(start, match.end()) if text[at : at + 1].isalnum()][:length]
        if not taken or len(taken) < length or text[taken[-1] + 1 : taken[-1] + 2].isalnum():
            continue
        symbols = bytes(text[at] for at in taken).decode()
        if int("".join(str(int(symbol, 36)) for symbol in symbols[4:] + symbols[:4])) % 97 == 1:
            yield start, taken[-1] + 1


def phones(text: bytes) -> Spans:
    """Telephone numbers in these forms, and no others:

    - international: "+" or "00", an assigned country code and number, 9 to 15 digits (E.164) in groups of two and more,
      or 10 to 13 in one piece behind "+"; +1 and +7 with 11 digits exactly;
    - North America: (415) 555-2671, 415-555-2671, 415.555.2671, also behind a 1, area and exchange from 2 on;
    - five pairs from a zero on, with one kind of mark between (01 23 45 67 89: France, Belgium);
    - area code with a zero, then one to three groups, 10 to 12 digits (020 7946 0958, 030/1234567, (0171) 123456).

    Numbers of one row or table, with a blank between, are no telephone number in the last two forms.
    """
    for match in _PHONE.finditer(text):
        number = match.group()
        digits = re.sub(rb"\D", b"", number)
        if match["world"]:
            good = _is_international(number.lstrip(b"+"), digits[2:] if number.startswith(b"00") else digits)
        elif match["pairs"]:
            pairs = [int(digits[at : at + 2]) for at in range(0, 10, 2)]
            good = pairs != list(range(pairs[0], pairs[0] + 5))  # a count: 01 02 03 04 05
        else:
            good = bool(match["america"]) or 10 <= len(digits) <= 12
        if good:
            yield match.span()


def _is_international(number: bytes, digits: bytes) -> bool:
    groups = [group for group in re.split(rb"\D+", number) if group]
    if digits[:1] in b"17":
        return len(digits) == 11 and digits[1:2] not in b"01"
    least, most = (10, 13) if len(groups) == 1 else (9, 15)
    in_groups = all(len(group) > 1 for group in groups if group != b"0")  # +44 (0)20
    return bool(_COUNTRY.match(digits)) and in_groups and least <= len(digits) <= most


def keys(text: bytes) -> Spans:
    """Access keys by the prefix that their service gives them, and JSON web tokens; Amazon's own example stays."""
    for match in _KEY.finditer(text):
        key = match.group()
        if re.search(rb"\d", key) and not key.endswith(b"EXAMPLE"):
            yield match.span()


def private_keys(text: bytes) -> Spans:
    """Private keys in PEM armour (RFC 7468, PGP), from BEGIN to END with at least 40 bytes between."""
    for match in _PEM.finditer(text):
        yield match.span()
