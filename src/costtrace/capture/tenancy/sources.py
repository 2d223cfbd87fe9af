"""Further ways of telling whose request it is: API keys, signed tokens, W3C baggage. Each is an `identity.Source`.

    key        ``Authorization: Bearer KEY`` or ``x-api-key: KEY`` whose salted hash is in the key file
    jwt        a bearer token that is signed by a key of the JWKS file; one claim of it names the tenant
    baggage    a member of the W3C ``baggage`` header; only from a trusted peer, as with a tenant header

A key or a token proves itself, so it counts from any peer. Keys, tokens and their hashes are never logged or recorded.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from costtrace.capture.tenancy.identity import INVALID, REJECTED, UNTRUSTED, Headers, Identity
from costtrace.config.tenant_names import DEFAULT_TENANT, tenant_name
from costtrace.core.guard import guard, swallow

KEY, JWT, BAGGAGE = "key", "jwt", "baggage"
BAD_TOKEN = REJECTED + "token"
LEAST_KEY = 20
"""Shortest API key, in characters: the hash is fast to compute, so a key must be too long to be guessed."""
LONGEST = 8_192
"""Longest token and longest baggage, in bytes; W3C Baggage requires no more either."""
MOST_MEMBERS = 64
LOOK_EVERY_S = 5.0
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signature algorithms that are accepted: those with a public key, so neither ``none`` nor a shared secret."""


class KnownKey(NamedTuple):
    """The entry of a key in a key file."""

    tenant: str
    label: str
    added: str


class KeyFile(NamedTuple):
    """A key file: a salt, and keys by their hash."""

    salt: bytes
    keys: dict[str, KnownKey]

    def hash(self, key: bytes) -> str:
        """The hash that the file has of *key*."""
        return hmac.new(self.salt, key, hashlib.sha256).hexdigest()


def read_keys(path: Path) -> KeyFile:
    """Read a key file; a new salt and no keys if there is no file. Raises: OSError, ValueError."""
    if not path.exists():
        return KeyFile(secrets.token_bytes(32), {})
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or not isinstance(raw.get("keys"), dict):
        raise ValueError(f"{path} is no key file of costtrace")  # noqa: TRY004 - what is wrong is the file
    keys = {
        str(digest): KnownKey(str(entry["tenant"]), str(entry.get("label", "")), str(entry.get("added", "")))
        for digest, entry in raw["keys"].items()
    }
    return KeyFile(bytes.fromhex(raw["salt"]), keys)


def write_keys(path: Path, file: KeyFile) -> None:
    """Write a key file whole, readable by its owner only. Raises: OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {"salt": file.salt.hex(), "keys": {digest: known._asdict() for digest, known in file.keys.items()}}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as to:
        json.dump(content, to, indent=1)
        to.flush()
        os.fsync(to.fileno())
    part.replace(path)


def credentials(headers: Headers) -> list[bytes]:
    """The bearer tokens and API keys among the headers, each once."""
    values = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"authorization" and value[:7].lower() == b"bearer ":
            values.append(value[7:].strip())
        elif lower == b"x-api-key":
            values.append(value.strip())
    return list(dict.fromkeys(values))


class KeySource:
    """The tenant of an API key. A key file that changes is read again within seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked_s = -LOOK_EVERY_S
        self._seen: tuple[int, int] | None = None
        self._file = KeyFile(b"", {})

    def __call__(self, headers: Headers, *, trusted: bool) -> Identity | None:
        """See `Source`. Known keys of different tenants are rejected as a contradiction."""
        del trusted
        self._look()
        file = self._file
        if not file.keys:
            return None
        known = [file.keys.get(file.hash(key)) for key in credentials(headers) if len(key) <= LONGEST]
        tenants = {each.tenant for each in known if each is not None}
        if len(tenants) > 1:
            return Identity(DEFAULT_TENANT, INVALID, "", {})
        return Identity(tenants.pop(), KEY, "", {}) if tenants else None

    def _look(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen != self._seen:
                self._file = read_keys(self._path)
                self._seen = seen
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            swallow("tenant keys", error)  # the keys read before stay in use


class BaggageSource:
    """The tenant that a trusted peer names in W3C baggage."""

    def __init__(self, member: str, *, max_length: int) -> None:
        self._member = member.encode("ascii")
        self._max_length = max_length

    def __call__(self, headers: Headers, *, trusted: bool) -> Identity | None:
        """The tenant in the baggage of a trusted peer; see `Source`."""
        values = [value for name, value in headers if name.lower() == b"baggage"]
        whole = b",".join(values)
        if self._member not in whole:
            return None
        if len(whole) > LONGEST or whole.count(b",") >= MOST_MEMBERS:
            return Identity(DEFAULT_TENANT, INVALID, "", {})
        claims = set()
        for member in whole.split(b","):
            key, equals, rest = member.partition(b"=")
            if equals and key.strip() == self._member:
                claims.add(unquote_to_bytes(rest.partition(b";")[0].strip()))
        if not claims:
            return None
        if not trusted:
            return Identity(DEFAULT_TENANT, UNTRUSTED, "", {})
        tenant = tenant_name(claims.pop(), self._max_length) if len(claims) == 1 else None
        return Identity(DEFAULT_TENANT, INVALID, "", {}) if tenant is None else Identity(tenant, BAGGAGE, "", {})


class JwtSource:
    """The tenant that a signed token names. Needs PyJWT (``costtrace-core[jwt]``).

    Raises: ImportError, OSError, ValueError (a JWKS file that cannot be used).
    """

    def __init__(self, jwks: Path, *, claim: str, issuer: str, audience: str, max_length: int) -> None:
        import jwt  # noqa: PLC0415 - only where a JWKS file is set

        self._jwt: Any = jwt
        self._claim = claim
        self._issuer = issuer or None
        self._audience = audience or None
        self._max_length = max_length
        raw: Mapping[str, Any] = json.loads(jwks.read_text(encoding="utf-8"))
        signing = [key for key in raw.get("keys", ()) if key.get("kty") != "oct" and key.get("use", "sig") == "sig"]
        if not signing:
            raise ValueError(f"{jwks} has no public key for signatures")
        self._keys: dict[str, Any] = {key.get("kid", ""): jwt.PyJWK(key) for key in signing}

    def __call__(self, headers: Headers, *, trusted: bool) -> Identity | None:
        """See `Source`. A bearer token that is no JWT (an API key, say) is ignored."""
        del trusted
        tokens = [token for token in credentials(headers) if token.startswith(b"eyJ") and token.count(b".") == 2]
        if not tokens:
            return None
        tenants = {self._tenant(token) for token in tokens}
        tenant = tenants.pop() if len(tenants) == 1 else None
        return Identity(DEFAULT_TENANT, BAD_TOKEN, "", {}) if tenant is None else Identity(tenant, JWT, "", {})

    def _tenant(self, token: bytes) -> str | None:
        if len(token) > LONGEST:
            return None
        try:
            header = self._jwt.get_unverified_header(token)
            key = self._keys.get(str(header.get("kid", "")))
            if key is None or header.get("alg") not in ALGORITHMS:
                return None
            claims = self._jwt.decode(
                token,
                key.key,
                algorithms=[header["alg"]],
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp"], "verify_aud": self._audience is not None},
            )
            value = claims.get(self._claim)
            return tenant_name(value.encode(), self._max_length) if isinstance(value, str) else None
        except Exception:  # noqa: BLE001 - a token on which the parser fails, however it does, is a bad token
            return None


def read_secret(path: Path | None) -> bytes:
    """The secret in a file, without its line end; b'' where there is none or it cannot be read."""
    with guard("tenant secret"):
        if path is not None:
            return path.read_bytes().strip()
    return b""
