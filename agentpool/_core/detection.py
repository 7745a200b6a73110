"""What is a secret in a text, and what is an ordinary word.

Ordinary words are no secrets. Either the text around a value says that it is one (the value of an
authorization header, of `password=`, of `?key=`), or a known prefix does (`sk-`, `ghp_`); both ways it
must look random as well: `sk-learn-pipeline` and `authorization: required` are none. What does nothing
but look random, such as a hash or the base64 of a picture, is none either. The values of known secrets
(given ones, and those of the environment) are secrets wherever they stand.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias
from urllib.parse import quote

import attrs

# -- what looks random -------------------------------------------------------------

_LONGEST_WORD = 24
_LETTERS_A_HUMP = 2.5  # of `camelCase`: 4; of base64: about 1.5
_SHORTEST_SECRET = 8
_SHORTEST_PASSWORD = 6
_PHRASE_OF_WORDS = 5

_HUMP = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NO_WORD = re.compile(
    r"(?i)[b-df-hj-np-tv-xz]{7}|abcdef|bcdefg|cdefgh|defghi|efghij|fghijk|ghijkl|ijklmn|klmnop|nopqrs|uvwxyz"
)
_WORD_WITH_NUMBER = re.compile(
    r"""(?x)
      [A-Za-z]{2,}(?:\d{1,2}|(?:19|20)\d\d) # python3, june2026
    | \d{1,4}[A-Za-z]{1,2}                  # 70b, 128k, 30s, 2nd
    | [A-Za-z]\d{1,4}[A-Za-z]?              # v2, k8s, i18n, b200
    | v\d+[a-z]{1,5}\d*                     # v1beta1
    | \d{1,4}[A-Za-z]\d{1,2}                # 8x7
    | \d{8}T\d{4,6}Z?                       # 20260131T235959Z
    """
)
_NAME_WITH_NUMBER = re.compile(
    r"""(?xi)
      aes(?:128|192|256) | argon2(?:d|i|id)? | base(?:16|32|58|64)(?:url)? | blake2[bs] | pbkdf2 | pkcs\d+
    | chacha20(?:poly1305)? | crc32 | curve25519 | poly1305 | ed(?:25519|448) | x25519 | x509 | md5
    | secp(?:256|384|521)[kr]1 | p(?:256|384|521) | rsa(?:1024|2048|3072|4096)
    | (?:es|hs|ps|rs|sha)(?:1|224|256|384|512)k? | u?int(?:8|16|32|64) | float(?:16|32|64)
    | utf(?:8|16|32) | latin1 | iso8601 | rfc\d{3,4} | win(?:32|64) | x86 | log4(?:j|shell) | oauth[12]
    """
)
_DATE = re.compile(r"(?:19|20)\d\d(?:[01]\d(?:[0-3]\d)?)?")


def _is_word(piece: str, with_number: bool) -> bool:
    """Return whether letters and digits without a break are a word, a number, or such as `v2`."""
    if piece.isdigit() or _NAME_WITH_NUMBER.fullmatch(piece):
        return True
    if not piece.isascii():
        return piece.isalpha()
    if not piece.isalpha():
        return with_number and _WORD_WITH_NUMBER.fullmatch(piece) is not None
    humps = _HUMP.findall(piece)
    return (
        max(map(len, humps)) <= _LONGEST_WORD
        and (len(humps) == 1 or len(piece) >= _LETTERS_A_HUMP * len(humps))
        and _NO_WORD.search(piece) is None
    )


def looks_random(value: str, *, shortest: int = _SHORTEST_SECRET, with_number: bool = True) -> bool:
    """Return whether a value is no text of words and numbers.

    Args:
      value: a text without white space.
      shortest: fewer characters are never a secret.
      with_number: whether a word may end in a number, as in `python3`.
    """
    if len(value) < shortest:
        return False
    pieces = re.findall(r"[^\W_]+", value)
    return not all(_is_word(piece, with_number) for piece in pieces)


def _looks_like_password(value: str) -> bool:
    return looks_random(value, shortest=_SHORTEST_PASSWORD, with_number=False)


def _is_basic_credential(value: str) -> bool:
    """Return whether a value is the base64 of `user:password`; few words are."""
    try:
        told = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return ":" in told and told.isprintable()


# -- where secrets stand -----------------------------------------------------------

# Before a key stands nothing of which it could be the middle; %3D does in an address, \\n in JSON.
_BEGINS = re.compile(r"(?<![A-Za-z0-9_-])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])")
# The names of secrets, in small letters. Each begins with a letter that is no group: the search is then
# quick, as it looks at those places only that have one of the letters.
_PASSWORD_NAME = r"password|passwd|passphrase|pwd"
_KEYS = ("api", "access", "secret", "private", "account", "subscription", "signing", "encryption", "master")
_NAME = "|".join(
    [
        *(rf"{kind}[-_ ]?key(?:[-_]?id)?" for kind in _KEYS),
        *(r"token", r"secret", r"authorization", r"credentials?", _PASSWORD_NAME),
    ]
)
_OF_PAGES = re.compile(r"(?:page|next|continuation|sync)[-_]?$")  # before `token`
_IS = r"""\\?["']?\]?\s{0,3}(?:=>|:=|[:=]|\s+is:?\s)\s{0,3}\\?["']?"""
_SCHEME = r"(?:(?:bearer|basic|token|apikey|bot|key)\s+)?"
_VALUE = r"""([^\s"'`,;&|<>(){}\[\]\\$*]+)"""

# What begins so is a key if it looks random.
_PREFIXES = [
    *("gh[pousr]_", "glpat-", "hf_", "gsk_", "r8_", "npm_", "pypi-", "pplx-", "tvly-", "xai-", "nvapi-"),
    *("fw_", "dop_v1_", "shp(?:at|ca|pa|ss)_", "lin_api_", "ntn_", "dckr_pat_", r"hvs\.", "whsec_"),
    *(r"ya29\.", "co_", "jina_", "voyage-", "csk-", "lsv2_(?:pt|sk)_", "key-", "apify_api_", "figd_", "rnd_"),
    *("gl" + "[a-z]" * letters + "-" for letters in range(2, 6)),
]
_SHORT_PREFIX = "(?:sk|pk|rk)[-_]"  # OpenAI, Stripe, ...
_SHAPES = re.compile(
    rf"{_SHORT_PREFIX}(?P<value>[A-Za-z0-9_-]{{10,}})"
    rf"|(?:{'|'.join(_PREFIXES)})(?P<other>[A-Za-z0-9_.-]{{12,}})"
)
# Whether there is such a text, which is seen much sooner: the last character of a prefix is a rare one.
_HAS_SHAPE = re.compile(
    rf"[-_.](?=[A-Za-z0-9_.-]{{10}})(?:{'|'.join(f'(?<={end})' for end in (_SHORT_PREFIX, *_PREFIXES))})"
)
# What has such a form is a key. Before each: a text without which there is none, as that is soon seen.
_CERTAIN = {
    "sk-ant-": re.compile(r"sk-ant-[a-z]+\d\d-[A-Za-z0-9_-]{8,}"),
    "github_pat_": re.compile(r"github_pat_[A-Za-z0-9_-]{8,}"),
    "xox": re.compile(r"xox[abeprs]-(?=[A-Za-z-]*\d)[A-Za-z0-9-]{8,}"),
    "xapp-": re.compile(r"xapp-\d-[A-Za-z0-9-]{8,}"),
    "AKIA": re.compile(r"(?<![+/])AKIA[A-Z0-9]{16}(?![A-Za-z0-9+/])"),  # not in base64
    "ASIA": re.compile(r"(?<![+/])ASIA[A-Z0-9]{16}(?![A-Za-z0-9+/])"),
    "AIza": re.compile(r"AIza[A-Za-z0-9_-]{30,}"),
    "SG.": re.compile(r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    "AGE-SECRET-KEY-1": re.compile(r"AGE-SECRET-KEY-1[A-Z0-9]{20,}"),
    ":AA": re.compile(r"\d{8,10}:AA[A-Za-z0-9_-]{30,}"),  # Telegram
    "eyJ": re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_.-]{4,}"),  # JSON web tokens
    "hooks.slack.com": re.compile(r"(?<=services/)[A-Z0-9]{6,}/[A-Z0-9]{6,}/[A-Za-z0-9]{8,}"),
    "PRIVATE KEY": re.compile(
        r"(?s)(?<=-----BEGIN )(?:[A-Z0-9]+ )*PRIVATE KEY-----.*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?=-----)"
    ),
    "Signature=": re.compile(r"(?<=Signature=)[0-9a-f]{64}\b"),  # Amazon's signed requests
}
# Where a secret stands, in a text of small letters, as its only group.
_NAMED = re.compile(rf"(?:{_NAME}){_IS}{_SCHEME}{_VALUE}")
_FLAG = re.compile(rf"--(?<!\w--)[\w-]{{0,40}}(?:{_NAME})[\s=]\s*{_VALUE}")
_BEARER = re.compile(rf"bearer(?<!\wbearer)\s+{_VALUE}")
_QUERY = re.compile(
    rf"[?&](?:[\w.-]{{0,30}}[_.-])?(?:api_?key|key|token|secret|sig|signature|auth|{_PASSWORD_NAME})"
    r"""=([^\s"'`&#<>()\\]+)"""
)
_PASSWORD = re.compile(rf"(?:{_PASSWORD_NAME}){_IS}{_VALUE}")
_USER_INFO = re.compile(r"""://[^\s/:@"'<>]{0,100}:([^\s/@"'<>]{1,200})@""")
_USER_FLAG = re.compile(r"""-(?<!\S-)(?:u|-user)[\s=]\s*["']?[^\s:"']+:([^\s"']+)""")
_BASIC = re.compile(r"basic(?<!\wbasic)\s+([a-z0-9+/_-]{6,}={0,2})")
_COOKIES = re.compile(r"""cookie["']?\s*[:=]\s*["']?([^\r\n"']+)""")
_COOKIE = re.compile(r"=\s*([^\s;=]+)")
PLACEHOLDER = re.compile(r"\[redacted(?:-\d+)?\]")
_NAMES_SECRET = re.compile(rf"(?:{_NAME})$")

Span: TypeAlias = tuple[int, int]
"""Where something begins and where it ends."""


def _keys(pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    """Yield where keys stand; only what follows a prefix in a group has to look random."""
    for match in pattern.finditer(text):
        if _BEGINS.match(text, match.start()) and all(map(looks_random, filter(None, match.groups()))):
            yield match.span()


def _is_basic(value: str) -> bool:
    return _is_basic_credential(value) or looks_random(value)


# How the names of secrets end, and what follows: such a place is seen sooner than a whole name.
_NAME_ENDS = {
    end: re.compile(rf"{end}{rest}{_IS}")
    for end, rest in {
        "key": "(?:[-_]?id)?",
        "token": "",
        "secret": "",
        "authorization": "",
        "credential": "s?",
        "passw": "(?:or)?d",
        "passphrase": "",
        "pwd": "",
    }.items()
}

# What a text has to hold in small letters; where a secret stands there; what it looks like.
_PLACES: list[tuple[str, re.Pattern[str], Callable[[str], bool]]] = [
    ("--", _FLAG, looks_random),
    ("bearer", _BEARER, looks_random),
    ("=", _QUERY, looks_random),
    ("pass", _PASSWORD, _looks_like_password),
    ("pwd", _PASSWORD, _looks_like_password),
    ("://", _USER_INFO, _looks_like_password),
    ("-u", _USER_FLAG, _looks_like_password),
    ("basic", _BASIC, _is_basic),
]


def _places(text: str) -> Iterator[Span]:
    """Yield where secrets stand whose place tells what they are."""
    lower = text.lower()
    if len(lower) != len(text):  # a few letters become two
        lower = "".join(letter.lower() if letter.isascii() else letter for letter in text)
    places = [(pattern, is_secret) for part, pattern, is_secret in _PLACES if part in lower]
    if any(end in lower and place.search(lower) is not None for end, place in _NAME_ENDS.items()):
        places.append((_NAMED, looks_random))
    for pattern, is_secret in places:
        for match in pattern.finditer(lower):
            start, end = match.span(1)
            value = text[start:end].rstrip(".:!?")
            if is_secret(value) and not _is_of_pages(lower, match):
                yield start, start + len(value)
    for match in _COOKIES.finditer(lower) if "cookie" in lower else ():
        for cookie in _COOKIE.finditer(text, *match.span(1)):
            if looks_random(cookie[1]):
                yield cookie.span(1)


def _is_of_pages(lower: str, match: re.Match[str]) -> bool:
    """Return whether it is a `next_page_token`, which is none of a secret."""
    start = match.start()
    return match[0].startswith("token") and _OF_PAGES.search(lower, max(0, start - 14), start) is not None


def spans_of(text: str) -> Iterator[Span]:
    """Yield where secrets stand in a text, by what they look like or by their place."""
    for match in PLACEHOLDER.finditer(text):
        yield match.span()
    for part, pattern in _CERTAIN.items():
        if part in text:
            yield from _keys(pattern, text)
    if _HAS_SHAPE.search(text) is not None:
        yield from _keys(_SHAPES, text)
    yield from _places(text)


def is_secret_under(name: str, value: str) -> bool:
    """Return whether a value is a secret because of the key under which it stands, such as `password`."""
    found = _NAMES_SECRET.search(name.lower())
    if found is None or re.search(r"\s", value) or _is_of_pages(name.lower(), found):
        return False
    is_secret = _looks_like_password if re.search(_PASSWORD_NAME, found[0]) else looks_random
    return is_secret(value) and PLACEHOLDER.search(value) is None


# -- known secrets -----------------------------------------------------------------

_SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:AUTH|PAT|PASS|PWD)(?:_|$)|KEY(?=_|S?$)|TOKEN(?!IZ)|SECRET|PASSW|PASSPHRASE|CREDENTIAL"
)
_NAME_OF_PASSWORD = re.compile(r"(?i)(?:^|_)(?:PASS|PWD)(?:_|$)|PASSW|PASSPHRASE|SECRET$")
_PLACE_OF_FILE = re.compile(r"(?:~|\.{1,2})?/[^/]*/|~/|\.{1,2}/|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://")
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d{1,5}")


def secrets_of_environment() -> dict[str, str]:
    """Return the values of environment variables that are named like secrets and look like some.

    Words, numbers, paths, addresses and switches do not, such as `true` and `production`.

    Returns:
      The names of the variables by their values.
    """
    return {
        value: name
        for name, value in sorted(os.environ.items(), reverse=True)
        if _SECRET_NAME.search(name) and _is_secret_of_environment(name, value)
    }


def _is_secret_of_environment(name: str, value: str) -> bool:
    if "PRIVATE KEY-----" in value:
        return True
    if len(value) < _SHORTEST_SECRET or re.search(r"\s", value):
        return False
    if _PLACE_OF_FILE.match(value) or _HOST_AND_PORT.fullmatch(value):
        return False
    if looks_random(value, with_number=_NAME_OF_PASSWORD.search(name) is None):
        return True
    # A long number among words, or a phrase of many: nobody names a server or a model that way.
    pieces = re.findall(r"[^\W_]+", value)
    numbers = [piece for piece in pieces if piece.isdigit()]
    if len(numbers) < len(pieces):
        long = [number for number in numbers if len(number) >= 4 and _DATE.fullmatch(number) is None]
        words = sum(piece.isalpha() for piece in pieces)
        return bool(long) or (words >= _PHRASE_OF_WORDS and len(value) >= 3 * _SHORTEST_SECRET)
    return False


def _forms_of(secret: str) -> set[str]:
    """Return how a secret stands in a text, in JSON and in an address."""
    return {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], _quoted(secret)}


def _quoted(secret: str) -> str:
    return quote(secret, safe="", errors="replace")


def _anywhere(secret: str) -> str:
    """Return a pattern of a secret: what could be a word is found as a whole word only."""
    pattern = re.escape(secret)
    if len(secret) >= 2 * _SHORTEST_SECRET and looks_random(secret):
        return pattern
    before = r"(?<![A-Za-z0-9])" if secret[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])" if secret[-1].isalnum() else ""
    return f"{before}{pattern}{after}"


@attrs.frozen
class KnownSecrets:
    """Secrets whose values are known, with the names of the environment variables that hold them."""

    names: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    _pattern: re.Pattern[str] | None = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, given: Iterable[str] = (), named: Mapping[str, str] | None = None) -> KnownSecrets:
        """Return what was given, and what the environment holds."""
        names = secrets_of_environment() if named is None else named
        forms = {form for secret in (*given, *names) if secret for form in _forms_of(secret)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        pattern = re.compile("|".join(map(_anywhere, longest_first))) if forms else None
        return cls(names, pattern)

    def spans(self, text: str) -> Iterator[Span]:
        """Yield where known secrets stand in a text."""
        if self._pattern is not None:
            for match in self._pattern.finditer(text):
                yield match.span()
