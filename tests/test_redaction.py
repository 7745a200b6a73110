"""Secrets go, words stay: the texts here are of the kinds that others took for the other."""

from __future__ import annotations

import base64
import random
import time

import pytest

from agentpool._core.detection import KnownSecrets, secrets_of_environment
from agentpool._core.redaction import Redaction, has_placeholder, redact, restored

WORDS = """
I have a basic understanding of trio.
Basic authentication is off; bearer instruments are securities.
SELECT pk_customer_id FROM orders; SELECT password FROM users WHERE token = token2
pip install sk-learn-contrib sk-learn-pipeline==1.4.2
risk-free task-oriented desk, ask-me-anything2024, sk-SK
authorization: required for every route
authorization: granted2025
Authorization: OAuth2
credentials: include
Set password: at least eight characters
the password: hunter is not here
the password is wrong; the token is invalid; the secret is out
password: bcrypt hash; password: argon2id; password_hash=sha256
password: 8-16 characters
passwordless: enabled2024 login
api_key: missing
api_key=None
api_key=os.environ["OPENAI_API_KEY"]
api_key = settings.OPENAI_API_KEY
OPENAI_API_KEY=$OPENAI_API_KEY
"Authorization: Bearer <token>"
"Authorization: Bearer ${TOKEN}"
Authorization: Bearer YOUR_API_KEY
Authorization: Basic <base64>
token: str | None = None
max_tokens=4096, tokens: 15000, total_tokens: 1234567890
TOKEN_LIMIT=128k
"next_page_token": "CAUQAA1234567"
secret: string
client_secret: your-client-secret
--password PASSWORD --token TOKEN --api-key KEY
commit 8e923fa0b1c2d3e4f5061728394a5b6c7d8e9f00
id 123e4567-e89b-12d3-a456-426614174000
toolu_01A09q90qw90lq917835lq9 call_abc123XYZ chatcmpl-9a8b7c6d5e4f
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk/M9QDwADhgGAWjR9
auth-smoke: 3 failures; Standard auth options; PASS: description
The key: never give up. The token: a coin. A secret: garden.
cache key: user:1234:profile
https://example.com/?key=value&token=abc
https://user:password@example.com/ and postgres://user:pass@localhost:5432/db
hf_transformers_cache npm_config_registry xai-grok-4-fast gsk_something_else
claude-sonnet-4-5-20250929 gpt-4o-2024-08-06 mixtral-8x7b-instruct-v1beta1
secret: recallNoticesRecallBusinessUnits-validation-group-1297083594-1
token: callFunctionCheckOf; secret: Passwort-ändern
basic YWJj and basic stuff====
cookie: accept=all; theme=dark-mode2
TOKEN = r.json()["tenant_access_token"]; sk_bulk = MAX_TOKENS; CREDENTIAL_PATH = None
if key := lookup(token := next(tokens)): sk-image-processing
20260131T235959Z signing key: see the vault
""".strip().splitlines()

RANDOM = "3f9a8b7c6d5e4f3a"
SECRETS = [
    # by their prefix
    ("sk-proj-abcdefgh12345678", "abcdefgh12345678"),
    ("sk-ant-api03-abcdefgh_1234", "abcdefgh_1234"),
    ("sk-or-v1-0a1b2c3d4e5f60718293a4b5c6d7e8f9", "0a1b2c3d4e5f"),
    ("sk_live_51H8xYzAbCdEfGh", "51H8xYz"),
    ("ghp_abcdefghijklmnop1234", "abcdefgh"),
    ("github_pat_abcdefghijklmnop1234", "abcdefgh"),
    ("glpat-xYz12AbC34dEf56GhI78", "xYz12"),
    ("xoxb-1234-abcdefgh", "abcdefgh"),
    ("AKIAABCDEFGHIJKLMNOP", "ABCDEFGH"),
    ("AIzaabcdefghijklmnopqrstuvwxyz0123456", "abcdefgh"),
    ("hf_abcdefghijklmnop1234", "abcdefgh"),
    ("npm_a1B2c3D4e5F6g7H8i9J0", "a1B2c3"),
    ("gsk_a1b2c3d4e5f6g7h8i9j0", "a1b2c3"),
    ("xai-a1b2c3d4e5f6g7h8i9j0", "a1b2c3"),
    ("tvly-dev-a1b2c3d4e5f6g7h8i9", "a1b2c3"),
    ("eyJhbGciOiJI.eyJzdWIiOiIx.abcdef", "abcdef"),
    ("https://api.example/v1/sk-a1b2c3d4e5f6g7h8/x", "a1b2c3"),
    ("https://hooks.slack.com/services/T01ABCDEF/B02GHIJKL/a1B2c3D4e5F6g7H8", "a1B2c3"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----", "MIIEow"),
    ("q=a%3Dsk-a1b2c3d4e5f6g7h8%26", "a1b2c3"),
    (r'{"log": "first\nsk-a1b2c3d4e5f6g7h8\tand\nAKIAABCDEFGHIJKLMNOP"}', "a1b2c3"),
    ("sk-abcdefghijklmnop", "abcdefgh"),
    # by the place of a header
    (f"curl -H 'Authorization: Bearer {RANDOM}' https://x.example", RANDOM),
    (f"curl -H 'X-Api-Key: {RANDOM}' https://x.example", RANDOM),
    (f"curl -u admin:{RANDOM} https://x.example", RANDOM),
    (f"Authorization: Token {RANDOM}.", RANDOM),
    (f"x-goog-api-key: {RANDOM}", RANDOM),
    (f"Ocp-Apim-Subscription-Key: {RANDOM}", RANDOM),
    ("Authorization: abcd1234", "abcd1234"),
    ("Bearer abcdefgh12345678", "abcdefgh"),
    ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ("Basic YWRtaW46aHVudGVyMg==", "YWRtaW46"),
    (f"Cookie: session={RANDOM}; theme=dark", RANDOM),
    ("x-api-key: 123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    ("Authorization: AWS4-HMAC-SHA256 Credential=AKIAABCDEFGHIJKLMNOP/2026, Signature=" + "0a" * 32, "0a0a"),
    # by the name of a value
    ('x-api-key": "abcd1234', "abcd1234"),
    ("password=abcd1234", "abcd1234"),
    ("password: hunter2", "hunter2"),
    ("the admin password is hunter2-not-a-real-password, ok", "hunter2"),
    (f"Your API key is {RANDOM}.", RANDOM),
    (f'{{"client_secret": "{RANDOM}"}}', RANDOM),
    (rf"{{\"api_key\": \"{RANDOM}\"}}", RANDOM),
    (f"os.environ['OPENAI_API_KEY'] = '{RANDOM}'", RANDOM),
    (f"export ANTHROPIC_API_KEY={RANDOM}", RANDOM),
    (f"DATAROBOT_API_TOKEN={RANDOM}", RANDOM),
    (f"apiKey: '{RANDOM}', accessToken={RANDOM}", RANDOM),
    (f"tool --api-key {RANDOM} --verbose", RANDOM),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI"),
    # in addresses
    (f"https://x.example/?no=1&key={RANDOM}&part=1", RANDOM),
    (f"https://x.example/?access_token={RANDOM}#top", RANDOM),
    (f"https://x.blob.example/a?sv=2020&sig={RANDOM}%3D", RANDOM),
    ("postgres://app:Xk29dLmQ@db:5432/x", "Xk29dLmQ"),
]


@pytest.mark.parametrize("text", WORDS)
def test_words_stay(text: str) -> None:
    assert redact(text) == text
    assert redact(f'{{"text": "{text}"}}') == f'{{"text": "{text}"}}'


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_go(text: str, secret: str) -> None:
    assert secret in text
    told = redact(f"before {text} after")
    assert secret not in told
    assert told.startswith("before ")
    assert told.endswith(" after")
    assert "[redacted-1]" in told


def test_what_stands_around_a_secret_stays() -> None:
    assert redact(f"curl -H 'Authorization: Bearer {RANDOM}' https://x?key={RANDOM}9&a=1.") == (
        "curl -H 'Authorization: Bearer [redacted-1]' https://x?key=[redacted-2]&a=1."
    )


def test_letters_that_grow_when_they_are_made_small_move_nothing() -> None:
    assert redact("İİİ API_KEY=a1b2c3d4e5 İ") == "İİİ API_KEY=[redacted-1] İ"


def test_lines_between_an_address_and_a_later_at_sign_stay() -> None:
    text = "url = 'postgres://app:\n    pass3word9\n@decorator\ndef f(): ...\nhttp://a:b1c2d3e4f5 @x"
    assert redact(text) == text


@pytest.mark.parametrize("alphabet", [b"+/", b"-_"])
def test_base64_stays(alphabet: bytes) -> None:
    picture = base64.b64encode(random.Random(9).randbytes(300_000), alphabet).decode()
    assert redact(picture) == picture
    assert redact(f"data:image/png;base64,{picture}") == f"data:image/png;base64,{picture}"


@pytest.mark.parametrize(
    "odd",
    ["a-", "a_", "?key=", "bearer ", "password=", "http://", ": ", "a.", "key-", "eyJa.", "cookie=;", " "],
)
def test_long_texts_take_no_longer_than_their_length(odd: str) -> None:
    """Ten times as much takes ten times as long; a pattern that goes back and forth takes a hundred times."""

    def seconds(length: int) -> float:
        text = "api_key" + (odd * length)[:length]
        begin = time.thread_time()  # of this thread: other processes do not count
        redact(text)
        return time.thread_time() - begin

    few, many = (min(seconds(length) for _ in range(3)) for length in (20_000, 200_000))
    assert many < max(few, 0.001) * 45


# -- known secrets -----------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "true",
        "production",
        "development",
        "my-secret-name",
        "1234567890",
        "sk-learn",
        "sk-learn-pipeline",
        "us-east-1",
        "ssh-ed25519",
        "/run/secrets/key",
        "/tmp/ssh-abc123XY/agent.44",
        "~/.ssh/id_ed25519x",
        "C:\\keys\\a1b2c3d4",
        "localhost:6379",
        "https://auth.example.com/a1b2c3d4",
        "gpt-4o-2024-08-06",
        "claude-sonnet-4-5-20250929",
        "30000ms",
        "RS256-JWKS",
        "hashicorp-vault-v2",
        "2026-01-01",
        "10.0.0.1",
        "1.2.3.4:8080",
        "my.module.Class",
        "users,admins",
        "short1",
    ],
)
def test_a_variable_that_is_named_like_a_secret_may_hold_words(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_AUTH_TOKEN", value)
    text = f"Set it to {value}, please."
    assert redact(text) == text


@pytest.mark.parametrize(
    "value",
    [
        "canary-4711-do-not-print",
        "another-key-of-another-machine",
        "sk-canary-5b1d0c7e9f2a",
        "hunter2hunter",
        "Tr0ub4dor&3",
        'pass"w0rd/1',
        "123e4567-e89b-12d3-a456-426614174000",
    ],
)
def test_the_value_of_a_variable_that_holds_a_secret_goes(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_AUTH_TOKEN", value)
    assert redact(f"It is ({value}).") == "It is ([redacted-1])."
    monkeypatch.delenv("SOME_AUTH_TOKEN")
    monkeypatch.setenv("MONGREL", value)
    assert secrets_of_environment().get(value) is None


def test_a_key_of_many_lines_in_the_environment_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"
    monkeypatch.setenv("SIGNING_KEY", key)
    monkeypatch.setenv("SIGNING_KEYS", "one two three 4711")
    assert list(filter(lambda value: "-----" in value, secrets_of_environment())) == [key]
    assert redact("one two three 4711") == "one two three 4711"


def test_a_password_of_the_environment_may_be_a_word_with_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2-secret")
    monkeypatch.setenv("DB_TOKEN", "hunter3-secret")
    assert redact("hunter2-secret hunter3-secret") == "[redacted-1] hunter3-secret"


def test_the_name_of_a_secret_that_two_variables_hold_is_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("Z_TOKEN", "A_TOKEN", "M_TOKEN"):
        monkeypatch.setenv(name, RANDOM)
    assert secrets_of_environment()[RANDOM] == "A_TOKEN"


def test_known_secrets_are_found_as_whole_words_and_in_other_forms() -> None:
    assert redact("safe sample, disabled; sa.", ["sa", ""]) == "safe sample, disabled; [redacted-1]."
    assert redact("x-hunter22/y unhunter22", ["hunter22"]) == "x-[redacted-1]/y unhunter22"
    assert redact('"p@ss\\"w1" p%40ss%22w1', ['p@ss"w1']) == '"[redacted-1]" [redacted-2]'
    long = "a1b2c3d4e5f6a7b8c9"
    assert redact(f"%3D{long}x", [long]) == "%3D[redacted-1]x"
    assert redact("\ud800 sec-ret!", ["sec-ret!", "\ud800!"]) == "\ud800 [redacted-1]"


# -- numbers -----------------------------------------------------------------------

ONE, TWO = "sk-aaaa1111bbbb2222", "sk-cccc3333dddd4444"


def nothing_known() -> Redaction:
    return Redaction(KnownSecrets.of((), {}))


def test_secrets_are_numbered_in_the_order_in_which_they_appear() -> None:
    redaction = nothing_known()
    data = {"b": [TWO, f"{ONE} {TWO}"], "a": {ONE: ONE}, "n": [1, None, True, 0.5]}
    assert redaction.data(data) == {
        "b": ["[redacted-2]", "[redacted-1] [redacted-2]"],
        "a": {"[redacted-1]": "[redacted-1]"},
        "n": [1, None, True, 0.5],
    }
    assert redaction.secrets == (ONE, TWO)
    assert nothing_known().data(dict(reversed(data.items()))) == nothing_known().data(data)
    assert list(nothing_known().data(data)) == ["b", "a", "n"]


def test_a_placeholder_that_is_there_already_is_one_of_the_secrets() -> None:
    redaction = nothing_known()
    told = redaction.data(f"[redacted-7] {ONE} [redacted-1] [redacted]")
    assert told == "[redacted-1] [redacted-2] [redacted-3] [redacted-4]"
    assert restored(told, redaction.secrets) == f"[redacted-7] {ONE} [redacted-1] [redacted]"


def test_secrets_are_put_back_where_they_were() -> None:
    data = {"[redacted-1]": ["a [redacted-2]", 1, None], "x": "[redacted-3] [redacted]"}
    assert restored(data, (ONE, TWO)) == {ONE: [f"a {TWO}", 1, None], "x": "[redacted-3] [redacted]"}


def test_the_key_under_which_a_value_stands_tells_what_it_is() -> None:
    data = {
        "headers": {"Authorization": "abcd1234", "X-Api-Key": [RANDOM]},
        "password": "hunter2",
        "signature": RANDOM[::-1],
        "encrypted_content": RANDOM[::-1],
        "properties": {"password": {"type": "string"}, "token": "string"},
        "next_page_token": "CAUQAA1234567",
        "token": "python3",
        "credentials": ["read2", "write-all4"],
        "secret": "two words3 or more4",
        "api_key": "[redacted-9]",
    }
    assert nothing_known().data(data) == {
        **data,
        "headers": {"Authorization": "[redacted-2]", "X-Api-Key": ["[redacted-3]"]},
        "password": "[redacted-4]",
        "api_key": "[redacted-1]",
    }


def test_what_is_a_secret_at_one_place_is_one_everywhere() -> None:
    redaction = nothing_known()
    data = {"a": f"{RANDOM} is mine: ({RANDOM})", "b": [f"https://x?key={RANDOM}", "hunter2 hunter22"]}
    assert redaction.data({**data, "password": "hunter2"}) == {
        "a": "[redacted-1] is mine: ([redacted-1])",
        "b": ["https://x?key=[redacted-1]", "[redacted-2] hunter22"],
        "password": "[redacted-2]",
    }
    assert redaction.data(f"so {RANDOM}, and {ONE}") == "so [redacted-1], and [redacted-3]"
    assert redaction.data({ONE: "hunter2", "a": TWO[3:]}) == {"[redacted-3]": "[redacted-2]", "a": TWO[3:]}
    assert redaction.secrets == (RANDOM, "hunter2", ONE)


def as_bytes(content: bytes) -> dict[str, str]:
    return {"$bytes": base64.b64encode(content).decode()}


def test_bytes_that_are_no_text_stay() -> None:
    picture = as_bytes(b"\x89PNG AKIAABCDEFGHIJKLMNOP")
    assert nothing_known().data(picture) == picture
    assert nothing_known().data({"$bytes": ONE, "b": ONE})["$bytes"] == "[redacted-1]"


def test_secrets_go_from_bytes_that_are_text() -> None:
    document = as_bytes(f"API_KEY={RANDOM} and ü\n".encode())
    clean = as_bytes("API_KEY=[redacted-1] and ü\n".encode())
    assert nothing_known().data({"data": document, "b": RANDOM}) == {"data": clean, "b": "[redacted-1]"}


def test_spans_that_overlap_are_one_secret() -> None:
    assert redact(f"api_key={ONE}/more9", ["more9"]) == "api_key=[redacted-1]"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("use [redacted-3] here", True),
        ("[redacted]", True),
        ("redacted-1", False),
        ({"a": ["b", ("c [redacted-1]",)]}, True),
        ({"[redacted-2]": 1}, True),
        ({"a": [1, None, {"b": 2.5}]}, False),
        (7, False),
    ],
)
def test_a_placeholder_is_seen_wherever_it_stands_in_data(data: object, expected: bool) -> None:
    assert has_placeholder(data) is expected


@pytest.mark.parametrize(
    "prefix",
    [
        *(
            "sk-",
            "sk_",
            "pk-",
            "rk_",
            "ghp_",
            "gho_",
            "glpat-",
            "glft-",
            "glagent-",
            "hf_",
            "gsk_",
            "r8_",
            "npm_",
        ),
        *(
            "pypi-",
            "pplx-",
            "tvly-",
            "xai-",
            "nvapi-",
            "fw_",
            "dop_v1_",
            "shpat_",
            "shpss_",
            "lin_api_",
            "ntn_",
        ),
        *("dckr_pat_", "hvs.", "whsec_", "ya29.", "co_", "jina_", "voyage-", "csk-", "lsv2_pt_", "lsv2_sk_"),
        *("key-", "apify_api_", "figd_", "rnd_"),
    ],
)
def test_each_shape_of_a_key_is_seen(prefix: str) -> None:
    key = f"{prefix}a8Fk29xLqP0z"
    assert redact(f"it is {key}, so") == "it is [redacted-1], so"
    assert redact(f'{{"a":"{key}"}}') == '{"a":"[redacted-1]"}'


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "apikey", "access-key-id", "private key", "token", "client_secret", "authorization"),
        *("credential", "credentials", "password", "passwd", "passphrase", "pwd", "API_KEY", "PassWord"),
    ],
)
@pytest.mark.parametrize("between", ["=", ": ", '": "', '\\": \\"', " := ", "=>", " is ", "'] = '"])
def test_each_name_of_a_secret_is_seen(name: str, between: str) -> None:
    assert redact(f"{name}{between}1f2e3d4c5b6a7988") == f"{name}{between}[redacted-1]"
