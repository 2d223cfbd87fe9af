"""The settings that tell tenants apart. Part of `costtrace.config.settings.Settings`."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, field_validator

from costtrace.config.field import setting
from costtrace.config.tenant_names import (
    DEFAULT_HEADERS,
    DEFAULT_TENANT,
    DEFAULT_TRUSTED_PEERS,
    MAX_LENGTH,
    header_name,
    network,
    tenant_name,
)

TENANTS = "Tenants"
ROUTE = ":path"
"""In place of a header: the route of the request, as the server knows it. No HTTP header has a colon in its name."""


class TenantSettings(BaseModel):
    """How the tenant of a request is found, and what is recorded of the request."""

    tenant_headers: tuple[str, ...] = setting(
        DEFAULT_HEADERS,
        group=TENANTS,
        about="HTTP headers that name the tenant; the first that is there decides.",
        example="x-team,x-costtrace-tenant",
    )
    tenant_trusted_peers: tuple[str, ...] = setting(
        DEFAULT_TRUSTED_PEERS,
        group=TENANTS,
        about="Networks of the peers that may name a tenant: the gateway, not its clients. Unix sockets always may.",
        example="10.20.0.0/16,fd00::/8",
    )
    tenant_default: str = setting(
        DEFAULT_TENANT, group=TENANTS, about="Who pays for requests that name no tenant.", example="shared"
    )
    tenant_max_length: int = setting(
        MAX_LENGTH,
        group=TENANTS,
        about="Longest name of a tenant; a longer one is rejected.",
        unit="characters",
        example="64",
        ge=1,
        le=1024,
    )
    dynamo_tenant: tuple[str, ...] = setting(
        ("metadata:tenant",),
        group=TENANTS,
        about="What names the tenant where NVIDIA Dynamo serves; the first that is there decides. `metadata:KEY` is "
        "the header `x-dynamo-meta-KEY`, `cache_salt` the header `x-tenant-id`, `annotation:KEY` the request's "
        "body. All are the client's unless the gateway sets them: see docs/dynamo.md.",
        example="metadata:team,cache_salt",
    )
    tenant_metric_limit: int = setting(
        1_000,
        group=TENANTS,
        about="Tenants that metrics show by name; further ones are folded into `__other__`. The ledger keeps all.",
        unit="tenants",
        example="200",
        ge=1,
        le=1_000_000,
    )

    tenant_sources: tuple[Literal["key", "jwt", "header", "baggage"], ...] = setting(
        ("key", "jwt", "header"),
        group=TENANTS,
        about="How the tenant of a request is found, in the order of trying. A way that is not set up is skipped.",
        example="header,baggage",
    )
    tenant_keys: Path | None = setting(
        None,
        group=TENANTS,
        about="File of API keys by salted hash (`costtrace tenants add-key`). Read again within seconds of a change.",
        example="/etc/costtrace/keys.json",
    )
    tenant_jwks: Path | None = setting(
        None,
        group=TENANTS,
        about="JWKS file with the public keys that sign bearer tokens. Needs PyJWT: `costtrace-core[jwt]`.",
        example="/etc/costtrace/jwks.json",
    )
    tenant_jwt_claim: str = setting(
        "tenant", group=TENANTS, about="The claim of a verified token that names the tenant.", example="org_id"
    )
    tenant_jwt_issuer: str = setting(
        "",
        group=TENANTS,
        about="The issuer that a token must name (`iss`). Empty: any.",
        example="https://id.example.com",
    )
    tenant_jwt_audience: str = setting(
        "", group=TENANTS, about="The audience that a token must name (`aud`). Empty: any.", example="inference"
    )
    tenant_baggage: str = setting(
        "tenant.id",
        group=TENANTS,
        about="The member of W3C baggage that names the tenant, where `tenant_sources` has `baggage`.",
        example="team",
        pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
    )
    tenant_trusted_secret: Path | None = setting(
        None,
        group=TENANTS,
        about="File with a secret (20 characters or more): a peer that sends it as `x-costtrace-secret` is trusted.",
        example="/run/secrets/costtrace-proxy",
    )
    tenant_models: Mapping[str, str] = setting(
        {},
        group=TENANTS,
        about="Tenants of LoRA adapters: who pays for requests to an adapter that name no tenant.",
        unit="NAME=TENANT",
        example="acme-lora=acme",
    )
    tenant_user_header: str = setting(
        "",
        group=TENANTS,
        about="Header in which a trusted peer names the user. The ledger gets a pseudonym, and only with "
        "`tenant_user_secret`. Empty: users are not recorded.",
        example="x-user",
    )
    tenant_user_secret: Path | None = setting(
        None,
        group=TENANTS,
        about="File with the secret that makes pseudonyms of users. With it, a known user's pseudonym can be found.",
        example="/run/secrets/costtrace-users",
    )
    request_labels: Mapping[str, str] = setting(
        {"workload": "x-costtrace-workload", "route": ROUTE},
        group=TENANTS,
        about="Labels of requests, for the cost of a workload or of a conversation: each with the header in which a "
        "trusted peer gives it, or `:path` for the route that was asked (vLLM). They are in the ledger and on "
        "spans, unchanged: no secrets, no prompts. No metric has them.",
        unit="LABEL=HEADER",
        example="workload=x-workload,conversation=x-conversation-id,route=:path",
    )
    tenants: Path | None = setting(
        None,
        group=TENANTS,
        about="File (YAML) that says each tenant's organisation, team, project, cost centre and labels, for reports.",
        example="/etc/costtrace/tenants.yaml",
    )

    @field_validator("dynamo_tenant")
    @classmethod
    def _channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        for channel in channels:
            kind, colon, key = channel.partition(":")
            if channel != "cache_salt" and not (kind in {"metadata", "annotation"} and colon and key):
                raise ValueError(f"{channel!r} is none of metadata:KEY, cache_salt, annotation:KEY")
        return channels

    @field_validator("tenant_headers")
    @classmethod
    def _headers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(header_name, names))

    @field_validator("tenant_trusted_peers")
    @classmethod
    def _peers(cls, peers: tuple[str, ...]) -> tuple[str, ...]:
        for peer in peers:
            network(peer)
        return peers

    @field_validator("tenant_default")
    @classmethod
    def _default_tenant(cls, name: str) -> str:
        if not name.isascii() or tenant_name(name.encode("ascii"), 1024) != name:
            raise ValueError("a tenant's name is printable ASCII, not empty, and does not begin with __")
        return name

    @field_validator("tenant_user_header")
    @classmethod
    def _user_header(cls, name: str) -> str:
        return header_name(name) if name else ""

    @field_validator("tenant_models")
    @classmethod
    def _models(cls, models: Mapping[str, str]) -> Mapping[str, str]:
        for tenant in models.values():
            cls._default_tenant(tenant)
        return MappingProxyType(dict(models))

    @field_validator("request_labels")
    @classmethod
    def _labels(cls, labels: Mapping[str, str]) -> Mapping[str, str]:
        for label in labels:
            if not re.fullmatch(r"[a-z][a-z0-9_.-]{0,62}", label):
                raise ValueError(f"{label!r} cannot be a label: lower-case letters, digits, _ . - and a letter first")
        headers = [ROUTE if header == ROUTE else header_name(header) for header in labels.values()]
        if len(set(headers)) < len(headers):
            raise ValueError("two labels have the same header")
        return MappingProxyType(dict(zip(labels, headers, strict=True)))

    @property
    def route_label(self) -> str:
        """The label that carries a request's route; '' where none does."""
        return next((label for label, header in self.request_labels.items() if header == ROUTE), "")
