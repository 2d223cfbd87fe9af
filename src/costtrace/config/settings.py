"""Every setting of costtrace: one model, one place. `costtrace.config.load` fills it, `docs/configuration.md` shows it.

Engine processes import this: standard library and pydantic only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_origin

from pydantic import ByteSize, ConfigDict, ValidationInfo, field_validator

from costtrace.config.energy import ENERGY as _ENERGY
from costtrace.config.energy import EnergySettings
from costtrace.config.field import absolute
from costtrace.config.field import setting as _setting
from costtrace.config.tenants import TENANTS as _TENANTS
from costtrace.config.tenants import TenantSettings

_GENERAL = "General"
_ENGINE = "In the engine"
_ACCOUNTING = "Accounting"
_PRICES = "Prices"
_AGENT = "Agent"
_EMISSION = "Emission"
GROUPS: Mapping[str, str] = {
    _GENERAL: "What engines, agent and command line share.",
    _ENGINE: "What the plugin does inside an engine process.",
    _TENANTS: "Whose request is it? A header that names a tenant counts only where it comes from a trusted peer.",
    _ACCOUNTING: "How the meter is split. Whatever is chosen, the rows add up to it.",
    _PRICES: "Without a price book time and energy are accounted for, and every cost is unknown.",
    _AGENT: "The process that samples the devices, reads the journals and writes the ledger.",
    _ENERGY: "Where energy is read, on this node and on others, and the carbon that is estimated from it.",
    _EMISSION: "Where spans and metrics go. OTLP is configured by OpenTelemetry's own `OTEL_*` variables.",
}
"""The groups of settings in the order of the documentation."""


def _pairs(text: str) -> dict[str, str]:
    """Read ``name=value,name=value``; ``none`` and the empty text are no pairs. Raises: ValueError."""
    pairs = {}
    for part in (part.strip() for part in text.split(",")):
        name, equals, value = part.rpartition("=")
        if part in {"", "none"}:
            continue
        if not equals or not name.strip():
            raise ValueError(f"{part!r} is not of the form NAME=VALUE")
        pairs[name.strip()] = value.strip()
    return pairs


class Settings(TenantSettings, EnergySettings):
    """All settings, checked. Made by `costtrace.config.load.load`; immutable.

    A list may be written as one text with commas; ``none`` is the empty list.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    home: Path = _setting(
        Path("~/.local/state/costtrace"),
        group=_GENERAL,
        about="Directory of journals and ledger. The default goes by `$XDG_STATE_HOME` where that is set.",
        example="/var/lib/costtrace",
    )
    enabled: bool = _setting(
        default=True, group=_GENERAL, about="`false`: the plugin stays out of the engine.", example="false"
    )
    host: str = _setting(
        "",
        group=_GENERAL,
        about="Name of this host in rows and spans, a Kubernetes node's name for instance. Default: the hostname.",
        example="node-17",
        max_length=253,
    )
    store: str = _setting(
        "",
        group=_GENERAL,
        about="The fleet store (ClickHouse): where `costtrace fleet push` sends a node's ledger, and what the reading "
        "commands read where no `--home` is given. Empty: the ledger of this node.",
        example="clickhouse://costtrace@clickhouse:8123",
    )
    store_password_file: Path | None = _setting(
        None,
        group=_GENERAL,
        about="File with the password of the store's user, on its first line.",
        example="/run/secrets/clickhouse",
    )
    ui_token_file: Path | None = _setting(
        None,
        group=_GENERAL,
        about="File (mode 0600) with the token that `costtrace ui` asks for, on its first line. It needs one where "
        "other machines can reach it.",
        example="/run/secrets/costtrace-ui",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", group=_GENERAL, about="Level of the agent's log.", example="debug"
    )

    agent: Literal["spawn", "external", "off"] = _setting(
        "spawn",
        group=_ENGINE,
        about="Who runs the agent. `spawn`: the plugin starts one if none runs. `external`: a sidecar or a service "
        "does. `off`: nobody; engines only write their journals.",
        example="external",
    )
    trtllm_tier: Literal["auto", "T1", "T1-native", "T2"] = _setting(
        "auto",
        group=_ENGINE,
        about="TensorRT-LLM: the tier to begin with (`auto`: T1). Where it does not fit, the next one is used. The "
        "removed tiers `T3` and `T5` count as `auto`, with a warning.",
        example="T1-native",
    )
    response_hints: bool = _setting(
        False,
        group=_ENGINE,
        about="vLLM: answer with the header `x-costtrace-request-id`, by which `costtrace requests --id REQUEST` and "
        "`costtrace explain REQUEST` find what it cost once its record has closed.",
        example="true",
    )
    cost_estimates: Literal["off", "tenant", "model"] = _setting(
        "off",
        group=_ENGINE,
        about="vLLM: state in `usage` of an answer, and in headers, what it has probably cost, by the mean per token "
        "of recent requests for the model: of the asking `tenant` only, or, where tenants may know of each other, of "
        "the whole `model`. Set it for the server and for its agent. It implies `response_hints`.",
        example="tenant",
    )
    ring_capacity: int = _setting(
        16_384,
        group=_ENGINE,
        about="Steps and notes that may wait for the writer thread. What does not fit becomes `unobserved` time.",
        unit="records",
        example="65536",
        ge=64,
        le=16_777_216,
    )
    journal_cap_bytes: ByteSize = _setting(
        1 << 30,
        group=_ENGINE,
        about="Limit of one engine's journal. Beyond it the oldest segments are deleted: their time is `unobserved`.",
        unit="bytes",
        example="4GiB",
        ge=32 << 20,
    )
    journal_fsync: bool = _setting(
        default=True,
        group=_ENGINE,
        about="Put the journal on the disk every 5 s: it then survives a crash of the host, not only of processes.",
        example="false",
    )
    simulated_device: str = _setting(
        "",
        group=_ENGINE,
        about="For demonstrations: the device that the engine says it has, in place of the CPU that it runs on. It is "
        "one of `costtrace nvml-sim`, and all that follows from it is labelled SIMULATED.",
        unit="UUID=NAME",
        example="GPU-51d60000-0000-4000-8000-000000000000=NVIDIA H100 80GB HBM3",
        pattern=r"^(GPU-[^=,]+=[^=]+)?$",
    )

    window_s: int = _setting(
        60,
        group=_ACCOUNTING,
        about="Length of an accounting window. Divides an hour, so that hours and days are made of whole windows.",
        unit="s",
        example="300",
        ge=1,
        le=3_600,
    )
    linger_ms: int = _setting(
        300,
        group=_ACCOUNTING,
        about="How long a request may still bring another sequence (n, prompts, beams) before its record closes.",
        unit="ms",
        example="1000",
        ge=0,
        le=60_000,
    )
    parts_wait_s: int = _setting(
        60,
        group=_ACCOUNTING,
        about="How long the total of a request over several workers is provisional while a part of it is missing.",
        unit="s",
        example="600",
        ge=0,
        le=86_400,
    )
    attribution: Literal["auto", "roofline", "affine", "tokens", "equal"] = _setting(
        "auto",
        group=_ACCOUNTING,
        about="How a step is shared. `auto`: by the first of the others that fits the measured steps well. Each record "
        "names the method that was used.",
        example="affine",
    )
    head_fee: Literal["request", "sequence", "tenant"] = _setting(
        "request",
        group=_ACCOUNTING,
        about="What a step's fixed cost is split evenly among. Applies to engines that start after a change.",
        example="sequence",
    )
    prefix_sharing: Literal["payer-of-miss", "tree"] = _setting(
        "payer-of-miss",
        group=_ACCOUNTING,
        about="Who pays for computing the beginning of a prompt that others then find in the prefix cache: who missed "
        "it, or (`tree`) in equal parts all who used it in the same window. With `tree` the journal says which "
        "requests begin alike, and a request's row comes at its window's end. Set it for the server and for its "
        "agent; it applies to engines that start after a change. vLLM only.",
        example="tree",
    )

    prices: Path | None = _setting(
        None,
        group=_PRICES,
        about="The price book (YAML). See `costtrace prices check`.",
        example="/etc/costtrace/prices.yaml",
    )
    node_pool: str = _setting(
        "",
        group=_PRICES,
        about="The pool that this node belongs to: prices of the book that are for a pool apply only to nodes of it.",
        example="a3-highgpu",
    )
    region: str = _setting(
        "",
        group=_PRICES,
        about="The region that this node is in: prices of the book that are for a region apply only there.",
        example="eu-west-4",
    )
    currency: str = _setting(
        "",
        group=_PRICES,
        about="The currency that the price book must be in. Empty: whatever it is in.",
        unit="ISO 4217",
        example="USD",
        pattern=r"^([A-Z]{3})?$",
    )

    budgets: Path | None = _setting(
        None,
        group=_PRICES,
        about="The budgets file (YAML) that `admission` goes by. See `costtrace budgets --help`.",
        example="/etc/costtrace/budgets.yaml",
    )
    admission: bool = _setting(
        False,
        group=_PRICES,
        about="Refuse requests of tenants that are above a hard budget, with HTTP 429. Set it, and `budgets`, for the "
        "server and for its agent. An agent that does not answer refuses nobody.",
        example="true",
    )

    agent_idle_exit_s: int = _setting(
        60,
        group=_AGENT,
        about="A spawned agent ends this long after its last engine has ended and all has been sent. 0: never.",
        unit="s",
        example="600",
        ge=0,
    )
    journal_delete: bool = _setting(
        default=True,
        group=_AGENT,
        about="Delete journal segments that have been rated. `false`: only the cap deletes.",
        example="false",
    )
    journal_keep_h: float = _setting(
        1.0,
        group=_AGENT,
        about="How long rated segments are kept before they are deleted, for `costtrace journal show`.",
        unit="h",
        example="24",
        ge=0,
        allow_inf_nan=False,
    )
    prometheus_host: str = _setting(
        "127.0.0.1",
        group=_EMISSION,
        about="Address that the agent's Prometheus endpoint listens on. Metrics name tenants: mind who can read.",
        example="10.0.0.5",
        min_length=1,
    )
    prometheus_port: int = _setting(
        9464,
        group=_EMISSION,
        about="Port of the Prometheus endpoint. 0: none. The default is the port of OpenTelemetry's own Prometheus "
        "exporters, so existing scrape rules find it.",
        example="0",
        ge=0,
        le=65_535,
    )
    compat_profiles: tuple[Literal["gen_ai_cost", "llm_cost", "langfuse"], ...] = _setting(
        ("gen_ai_cost", "llm_cost"),
        group=_EMISSION,
        about="Other tools' names for the cost, added to spans where it is in USD. `gen_ai_cost`: `gen_ai.usage.cost` "
        "(Langfuse, OpenLIT). `llm_cost`: `llm.cost.*` (Arize). `langfuse`: `langfuse.observation.cost_details`.",
        example="none",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        """Split lists; refuse a true or false that pydantic would convert to another type."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError(f"{str(value).lower()} is not a value of this setting (in YAML, quote a word like off)")
        if get_origin(annotation) is tuple and isinstance(value, str):
            parts = [part.strip() for part in value.split(",") if part.strip()]
            return () if parts == ["none"] else tuple(parts)
        if info.field_name in {"sensor_gain", "tenant_models", "request_labels"} and isinstance(value, str):
            return _pairs(value)
        return value

    @field_validator("window_s")
    @classmethod
    def _divides_an_hour(cls, seconds: int) -> int:
        if 3_600 % seconds:
            raise ValueError("must divide 3600, so that an hour is made of whole windows (60, 300, 900, ...)")
        return seconds

    @field_validator("store")
    @classmethod
    def _no_password(cls, dsn: str) -> str:
        if ":" in dsn.partition("://")[2].rpartition("@")[0]:
            raise ValueError("a password in it would be shown by `costtrace doctor`: use store_password_file")
        return dsn

    @field_validator(
        "home",
        "prices",
        "budgets",
        "store_password_file",
        "ui_token_file",
        "tenant_keys",
        "tenant_jwks",
        "tenant_trusted_secret",
        "tenant_user_secret",
        "tenants",
    )
    @classmethod
    def _absolute(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else absolute(path, info)
