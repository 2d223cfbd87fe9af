"""The tenancy policy that an engine's settings ask for."""

from costtrace.capture.tenancy.identity import HeaderSource, Source, TenancyPolicy
from costtrace.capture.tenancy.sources import BaggageSource, JwtSource, KeySource, read_secret
from costtrace.config.tenants import ROUTE, TenantSettings
from costtrace.core.guard import guard


def policy_of(settings: TenantSettings) -> TenancyPolicy:
    """The policy by which these settings tell tenants apart."""
    return TenancyPolicy(
        trusted_peers=settings.tenant_trusted_peers,
        default=settings.tenant_default,
        sources=[source for name in settings.tenant_sources if (source := _source(settings, name)) is not None],
        secret=read_secret(settings.tenant_trusted_secret),
        models=settings.tenant_models,
        user_header=settings.tenant_user_header,
        user_secret=read_secret(settings.tenant_user_secret),
        labels={label: header for label, header in settings.request_labels.items() if header != ROUTE},
    )


def _source(settings: TenantSettings, name: str) -> Source | None:
    """The source called *name*; None where it is not configured, or (which is logged) cannot be used."""
    length = settings.tenant_max_length
    if name == "header":
        return HeaderSource(settings.tenant_headers, default=settings.tenant_default, max_length=length)
    if name == "baggage":
        return BaggageSource(settings.tenant_baggage, max_length=length)
    if name == "key" and settings.tenant_keys is not None:
        return KeySource(settings.tenant_keys)
    if name == "jwt" and settings.tenant_jwks is not None:
        with guard("tenant jwks"):
            return JwtSource(
                settings.tenant_jwks,
                claim=settings.tenant_jwt_claim,
                issuer=settings.tenant_jwt_issuer,
                audience=settings.tenant_jwt_audience,
                max_length=length,
            )
    return None
