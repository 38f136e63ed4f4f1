# SPDX-License-Identifier: Apache-2.0
"""Which tokens of an issuer are taken, and which keys; the keys are those of this file."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from finetree_runtime.errors import Unauthenticated, Unavailable
from finetree_runtime.server.entry.oidc import keys as module
from finetree_runtime.server.entry.oidc.fetch import FetchError, is_allowed, same_host
from finetree_runtime.server.entry.oidc.keys import IssuerKeys
from finetree_runtime.server.entry.oidc.verify import Identity, verify

ISSUER, AUDIENCE = "https://issuer.example.com", "finetree"
PRIVATE = {
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
    "weak": rsa.generate_private_key(public_exponent=65537, key_size=1024),
}
ALGORITHM = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "weak": "RS256"}
MAKER = {"rsa": jwt.algorithms.RSAAlgorithm, "ec": jwt.algorithms.ECAlgorithm, "ed": jwt.algorithms.OKPAlgorithm}


def described(name, **more: str):
    maker = MAKER.get(name, MAKER["rsa"])
    return json.loads(maker.to_jwk(PRIVATE[name].public_key())) | {"kid": name, **more}


def claims(**changed: object):
    now = int(time.time())
    base = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 60}
    return {key: value for key, value in (base | changed).items() if value is not None}


def signed(name="rsa", payload=None, *, kid=None, algorithm=None):
    return jwt.encode(
        payload or claims(), PRIVATE[name], algorithm or ALGORITHM[name], headers={"kid": name if kid is None else kid}
    )


def by_hand(header, payload, sign=lambda _: b""):
    """A token that no library makes."""
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (header, payload)]
    signature = base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


@pytest.fixture
def keys():
    return IssuerKeys(lambda: [described(name) for name in PRIVATE])


async def checked(token, keys, groups_claim=""):
    return await verify(token, keys, issuer=ISSUER, audience=AUDIENCE, groups_claim=groups_claim)


async def reason(token, keys):
    with pytest.raises((Unauthenticated, Unavailable)) as caught:
        await checked(token, keys)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("name", ["rsa", "ec", "ed"])
async def test_each_algorithm_is_taken(keys, name):
    assert await checked(signed(name), keys) == Identity("alice", ())


@pytest.mark.parametrize(
    ("changed", "expected", "said"),
    [
        ({"aud": "elsewhere"}, "TOKEN_INVALID", "another audience"),
        ({"aud": ["elsewhere", "other"]}, "TOKEN_INVALID", "another audience"),
        ({"aud": None}, "TOKEN_INVALID", "no claim aud"),
        ({"iss": ISSUER + "/"}, "TOKEN_INVALID", "another issuer"),
        ({"iss": None}, "TOKEN_INVALID", "no claim iss"),
        ({"sub": None}, "TOKEN_INVALID", "no claim sub"),
        ({"sub": "a b"}, "TOKEN_INVALID", "subject is no name"),
        ({"sub": "a\nb"}, "TOKEN_INVALID", "subject is no name"),
        ({"sub": 7}, "TOKEN_INVALID", "wrong"),
        ({"exp": None}, "TOKEN_INVALID", "no claim exp"),
        ({"exp": "soon"}, "TOKEN_INVALID", "wrong"),
        ({"exp": int(time.time()) - 3600}, "TOKEN_EXPIRED", "expired"),
        ({"nbf": int(time.time()) + 3600}, "TOKEN_NOT_YET_VALID", "not valid yet"),
        ({"iat": int(time.time()) + 3600}, "TOKEN_NOT_YET_VALID", "not valid yet"),
        ({"iat": None}, "TOKEN_INVALID", "no claim iat"),
    ],
)
async def test_wrong_claims_are_refused(keys, changed, expected, said):
    found, text = await reason(signed(payload=claims(**changed)), keys)
    assert (found, said in text) == (expected, True), text


async def test_clocks_may_differ_a_little(keys):
    now = int(time.time())
    await checked(signed(payload=claims(iat=now + 20, nbf=now + 20)), keys)
    await checked(signed(payload=claims(exp=now - 20)), keys)


async def test_a_token_for_several_audiences_is_taken(keys):
    await checked(signed(payload=claims(aud=["elsewhere", AUDIENCE])), keys)


async def test_tokens_that_nobody_has_signed_are_refused(keys):
    public = PRIVATE["rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def shared(text: bytes) -> bytes:
        return hmac.new(public, text, hashlib.sha256).digest()

    def weakly(text: bytes) -> bytes:
        return PRIVATE["weak"].sign(text, PKCS1v15(), SHA256())

    for token in (
        by_hand({"alg": "none", "kid": "rsa"}, claims()),
        by_hand({"alg": "None", "kid": "rsa"}, claims()),
        by_hand({"alg": "", "kid": "rsa"}, claims()),
        by_hand({"kid": "rsa"}, claims()),
        by_hand({"alg": ["RS256"], "kid": "rsa"}, claims()),
        by_hand({"alg": "HS256", "kid": "rsa"}, claims(), shared),  # with the public key as the secret
        by_hand({"alg": "RS256", "kid": "rsa"}, claims(), shared),
        by_hand({"alg": "RS256", "kid": "rsa"}, claims()),
        by_hand({"alg": "ES256", "kid": "ec"}, claims(), lambda _: bytes(64)),
        by_hand({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}, claims(), lambda _: bytes(256)),
        signed()[:-4] + "AAAA",
        signed("rsa", kid="ec"),
        signed("ec", kid="rsa"),
        by_hand({"alg": "RS256", "kid": "weak"}, claims(), weakly),
        "a.b.c",
        "..",
        "x" * 9000,
    ):
        assert (await reason(token, keys))[0] == "TOKEN_INVALID", token


async def test_a_key_in_the_token_itself_is_not_looked_at(keys):
    stranger = ec.generate_private_key(ec.SECP256R1())
    own = json.loads(MAKER["ec"].to_jwk(stranger.public_key()))
    token = jwt.encode(claims(), stranger, "ES256", headers={"kid": "ec", "jwk": own, "jku": "https://evil.example"})
    assert (await reason(token, keys))[0] == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("claim", "value", "groups"),
    [
        ("groups", ["a", "b"], ("a", "b")),
        ("groups", "a", ("a",)),
        ("repository_id", 4711, ("4711",)),
        ("groups", [1, None, True, {"a": 1}, "c"], ("1", "c")),
        ("groups", {"a": "b"}, ()),
        ("groups", None, ()),
        ("https://example.com/groups", ["a"], ("a",)),
        ("", ["a"], ()),
    ],
)
async def test_groups_are_those_of_the_claim(keys, claim, value, groups):
    payload = claims(**{claim or "groups": value})
    assert (await checked(signed(payload=payload), keys, claim)).groups == groups


async def test_groups_inside_of_another_claim(keys):
    payload = claims(realm_access={"roles": ["ml"]})
    assert (await checked(signed(payload=payload), keys, "realm_access.roles")).groups == ("ml",)
    assert (await checked(signed(payload=payload), keys, "realm_access.roles.deeper")).groups == ()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Keys as an issuer has them at a moment, and how often it was asked."""

    def __init__(self, *names: str) -> None:
        self.names, self.asked, self.away = names, 0, False

    def __call__(self) -> list[dict[str, str]]:
        self.asked += 1
        if self.away:
            raise FetchError("it is away")
        return [described(name) for name in self.names]


async def settled(keys):
    """Wait for a refresh that runs beside the calls."""
    while keys._asking is not None:
        await keys._asking


async def test_a_flood_of_unknown_ids_asks_the_issuer_once_in_30_seconds():
    issuer, clock = Issuer("rsa"), Clock()
    keys = IssuerKeys(issuer, clock)
    await checked(signed(), keys)
    assert issuer.asked == 1
    for number in range(40):
        assert (await reason(signed(kid=f"none-{number}"), keys))[0] == "TOKEN_INVALID"
        clock.now += 0.5
    assert issuer.asked == 1, "the first question was less than 30 s ago"
    clock.now += module.UNKNOWN_SECONDS
    for number in range(40):
        assert (await reason(signed(kid=f"none-{number}"), keys))[0] == "TOKEN_INVALID"
    assert issuer.asked == 2
    await checked(signed(), keys)


async def test_a_new_key_of_the_issuer_is_found_and_a_withdrawn_one_refused():
    issuer, clock = Issuer("rsa"), Clock()
    keys = IssuerKeys(issuer, clock)
    await checked(signed("rsa"), keys)
    issuer.names = ("rsa", "ec")
    clock.now += module.UNKNOWN_SECONDS
    await checked(signed("ec"), keys)
    issuer.names = ("ec",)
    clock.now += module.REFRESH_SECONDS
    await checked(signed("rsa"), keys)  # answered with the keys that are there, which are read again beside it
    await settled(keys)
    assert (await reason(signed("rsa"), keys))[0] == "TOKEN_INVALID"


async def test_keys_are_used_while_the_issuer_is_away_for_a_day():
    issuer, clock = Issuer("rsa"), Clock()
    keys = IssuerKeys(issuer, clock)
    await checked(signed(), keys)
    issuer.away = True
    clock.now += module.STALE_SECONDS - 1
    await checked(signed(), keys)
    await settled(keys)
    clock.now += 2
    assert (await reason(signed(), keys))[0] == "ISSUER_UNAVAILABLE"
    issuer.away = False
    clock.now += module.RETRY_SECONDS
    await checked(signed(), keys)


async def test_an_issuer_that_is_away_at_the_start_is_asked_again_after_5_seconds():
    issuer, clock = Issuer("rsa"), Clock()
    issuer.away = True
    keys = IssuerKeys(issuer, clock)
    keys.begin_refresh()
    await settled(keys)
    for _ in range(20):
        assert (await reason(signed(), keys))[0] == "ISSUER_UNAVAILABLE"
    assert issuer.asked == 1
    issuer.away = False
    clock.now += module.RETRY_SECONDS
    await checked(signed(), keys)
    assert issuer.asked == 2


async def test_few_calls_wait_for_a_slow_issuer_and_one_that_goes_takes_nothing_from_the_others():
    go_on = threading.Event()

    def slowly() -> list[dict[str, str]]:
        assert go_on.wait(60)
        return [described("rsa")]

    keys = IssuerKeys(slowly)
    waiting = [asyncio.create_task(checked(signed(), keys)) for _ in range(module.MAX_WAITING)]
    await asyncio.sleep(0)
    assert keys._waiting == module.MAX_WAITING
    assert (await reason(signed(), keys))[0] == "ISSUER_UNAVAILABLE"
    waiting[0].cancel()
    await asyncio.sleep(0)
    go_on.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [Identity("alice", ())] * (module.MAX_WAITING - 1)


async def test_keys_that_cannot_verify_are_left_out():
    fetched = [
        described("rsa", use="enc"),
        described("weak"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "RSA", "kid": "damaged"},
        {"kty": "new"},
        "nonsense",
        described("ec", use="sig"),
    ]
    keys = IssuerKeys(lambda: fetched)
    await checked(signed("ec"), keys)
    assert sorted(keys._keys) == ["", "ec"]
    token = jwt.encode(claims(), PRIVATE["ec"], "ES256")
    assert await checked(token, keys) == Identity("alice", ()), "the only key needs no id"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://issuer.example.com/realms/x", True),
        ("http://127.0.0.1:9400", True),
        ("http://localhost:9400", True),
        ("http://issuer.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("https://user@issuer.example.com", False),
        ("https://issuer.example.com?x", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("https://x:99999999", False),
    ],
)
def test_which_urls_are_fetched_from(url, allowed):
    assert is_allowed(url) is allowed


def test_keys_come_from_the_issuers_own_host():
    assert same_host("https://issuer.example.com/keys", ISSUER)
    assert not same_host("https://issuer.example.com:8443/keys", ISSUER)
    assert not same_host("https://elsewhere.example.com/keys", ISSUER)
