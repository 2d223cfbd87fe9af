"""Whose request is it? Decided in the API server, per HTTP request, from its headers and the peer.

The peer is the other end of the connection. A client cannot bill a neighbour: a header that names a tenant counts only
if the peer is trusted. Every other request is the default tenant's, and its *source* says why:

    ``key``                 an API key of the tenant's
    ``jwt``                 a claim of a token that was verified
    ``header``              a trusted peer named the tenant
    ``baggage``             the same, in W3C baggage
    ``model``               the tenant of the LoRA adapter that was asked for; no tenant was named
    ``default``             no tenant was named
    ``rejected:untrusted``  a peer that is not trusted named one
    ``rejected:invalid``    a trusted peer named one that cannot be a tenant's name, or several
    ``rejected:token``      a bearer token that is expired, forged, not signed, or names nobody

When it is wrong: uvicorn replaces `scope["client"]` by what ``X-Forwarded-For`` says if the peer is in its
``FORWARDED_ALLOW_IPS`` (default 127.0.0.1). The real peer is then hidden, and with ``FORWARDED_ALLOW_IPS=*`` a client
can claim any address. Callers of `resolve` have to take the address from before that (`capture.asgi`).

A `Source` names a tenant by the headers, rejects a claim, or gives None. A policy asks its sources in order, and the
first that names a tenant decides. `HeaderSource` is here, the others are in `sources`.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from costtrace.config.tenant_names import (
    DEFAULT_HEADERS,
    DEFAULT_TENANT,
    DEFAULT_TRUSTED_PEERS,
    MAX_LENGTH,
    header_name,
    network,
    tenant_name,
)

Headers = Sequence[tuple[bytes, bytes]]
"""HTTP headers as ASGI has them. Names compare without regard to case."""

HEADER = "header"
MODEL = "model"
DEFAULT = "default"
REJECTED = "rejected:"
UNTRUSTED = REJECTED + "untrusted"
INVALID = REJECTED + "invalid"

SECRET_HEADER = b"x-costtrace-secret"
LEAST_SECRET = 20
"""Shortest secret, in bytes; a shorter one counts as none."""
MAX_USER = 1024

_PEERS_KEPT = 4096


class Identity(NamedTuple):
    """Who pays for a request, and how that is known."""

    tenant: str
    source: str
    user: str
    labels: dict[str, str]


class Source(Protocol):
    """One way of telling whose a request is."""

    def __call__(self, headers: Headers, *, trusted: bool) -> Identity | None:
        """Name a tenant; or reject a claim (source ``rejected:...``); or None: no claim is there. Must not raise."""


class HeaderSource:
    """The tenant that a trusted peer names in a header. The first of *names* that the request has decides.

    Raises: ValueError (a name that cannot be an HTTP header's).
    """

    def __init__(
        self,
        names: Iterable[str] = DEFAULT_HEADERS,
        *,
        default: str = DEFAULT_TENANT,
        max_length: int = MAX_LENGTH,
    ) -> None:
        self._names = tuple(header_name(name).encode("ascii") for name in names)
        self._wanted = frozenset(self._names)
        self._max_length = max_length
        self._default = default

    def __call__(self, headers: Headers, *, trusted: bool) -> Identity | None:
        """The tenant that a trusted peer's header names; see `Source`."""
        wanted = self._wanted
        claims = [(key, value) for name, value in headers if (key := name.lower()) in wanted]
        if not claims:
            return None
        if not trusted:
            return Identity(self._default, UNTRUSTED, "", {})
        for name in self._names:
            values = {value for key, value in claims if key == name}
            if values:
                tenant = self._read(values)
                if tenant is None:
                    return Identity(self._default, INVALID, "", {})
                return Identity(tenant, HEADER, "", {})
        return None  # pragma: no cover - every claim has one of the names

    def _read(self, values: set[bytes]) -> str | None:
        """The tenant that all values of a header agree on; None where they do not, or one cannot be a name."""
        if len(values) == 1:
            (value,) = values
            if b"," not in value:
                return tenant_name(value, self._max_length)
        # A proxy may join repeated headers with commas (RFC 9110, 5.3): a list is the same as repeated headers.
        names = {tenant_name(part, self._max_length) for value in values for part in value.split(b",")}
        return names.pop() if len(names) == 1 else None


class TenancyPolicy:
    """Which peers are trusted, and which sources are asked in which order. Immutable but for its cache of peers.

    Raises: ValueError (an address or header name that cannot be used).
    """

    __slots__ = (
        "_known",
        "_labels",
        "_networks",
        "_secret",
        "_user_header",
        "_user_secret",
        "default",
        "models",
        "sources",
    )

    def __init__(
        self,
        *,
        headers: Iterable[str] = DEFAULT_HEADERS,
        trusted_peers: Iterable[str] = DEFAULT_TRUSTED_PEERS,
        default: str = DEFAULT_TENANT,
        max_length: int = MAX_LENGTH,
        sources: Sequence[Source] | None = None,
        secret: bytes = b"",
        models: Mapping[str, str] = MappingProxyType({}),
        user_header: str = "",
        user_secret: bytes = b"",
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.default = default
        self.models = models
        """Adapter -> the tenant who pays for requests to it that name no tenant."""
        self._secret = hashlib.sha256(secret).digest() if len(secret) >= LEAST_SECRET else b""
        self._labels = {header_name(header).encode("ascii"): label for label, header in labels.items()}
        self._user_header = user_header.encode("ascii")
        self._user_secret = user_secret if len(user_secret) >= LEAST_SECRET else b""
        self.sources: tuple[Source, ...] = (
            (HeaderSource(headers, default=default, max_length=max_length),) if sources is None else tuple(sources)
        )
        self._networks = tuple(network(peer) for peer in trusted_peers)
        self._known: dict[str, bool] = {}

    def trusts(self, peer: str | None) -> bool:
        """Whether the peer at this address may name a tenant.

        None is a unix socket: file permissions decide who may open it.
        """
        if peer is None:
            return True
        known = self._known.get(peer)
        if known is None:
            known = self._is_in_a_network(peer)
            if len(self._known) >= _PEERS_KEPT:
                self._known.clear()
            self._known[peer] = known
        return known

    def knows_secret(self, headers: Headers) -> bool:
        """Whether the headers have the shared secret, once."""
        if not self._secret:
            return False
        sent = [value for name, value in headers if name.lower() == SECRET_HEADER]
        return len(sent) == 1 and hmac.compare_digest(hashlib.sha256(sent[0]).digest(), self._secret)

    def user(self, headers: Headers) -> str:
        """A pseudonym of the user that a trusted peer names; '' where none is wanted, or not exactly one is named."""
        if not self._user_header or not self._user_secret:
            return ""
        named = {value.strip() for name, value in headers if name.lower() == self._user_header}
        if len(named) != 1 or not (user := named.pop()) or len(user) > MAX_USER:
            return ""
        return "u-" + hmac.new(self._user_secret, user, hashlib.sha256).hexdigest()[:16]

    def labels(self, headers: Headers) -> dict[str, str]:
        """Labels that a trusted peer gives a request, without those that are contradictory or cannot be a name."""
        claims: dict[str, set[bytes]] = {}
        for name, value in headers if self._labels else ():
            if (label := self._labels.get(name.lower())) is not None:
                claims.setdefault(label, set()).add(value)
        named = {label: tenant_name(values.pop()) for label, values in claims.items() if len(values) == 1}
        return {label: value for label, value in named.items() if value is not None}

    def _is_in_a_network(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def resolve(headers: Headers, peer: str | None, policy: TenancyPolicy, model: str = "") -> Identity:
    """Whose request this is.

    *peer*: address of the other end of the connection (None: a unix socket). *model*: the adapter that is asked for, if
    any. Never raises, whatever the bytes of the headers. About 3 us with a dozen headers.
    """
    trusted = policy.trusts(peer) or policy.knows_secret(headers)
    labels = policy.labels(headers) if trusted else {}
    rejected: Identity | None = None
    for source in policy.sources:
        identity = source(headers, trusted=trusted)
        if identity is None:
            continue
        if not identity.source.startswith(REJECTED):
            user = policy.user(headers) if trusted else ""
            return identity._replace(user=user, labels=labels) if user or labels else identity
        rejected = rejected or identity._replace(tenant=policy.default)
    if model and model in policy.models:
        return Identity(policy.models[model], MODEL, "", labels)
    return rejected or Identity(policy.default, DEFAULT, "", labels)
