"""Settings: where a value is from, and the error for one that cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest
from configuration_page import configuration_markdown

from costtrace.capture.tenancy.policy import policy_of
from costtrace.config import load as config
from costtrace.config.load import KEYS, explain, load
from costtrace.config.settings import GROUPS, Settings
from costtrace.core.errors import ConfigError

HOME = {"HOME": "/home/someone"}


def source_of(key, **arguments):
    return next(row for row in explain(**arguments) if row.key == key)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "costtrace.yaml"
        path.write_text(text)
        return {**HOME, "COSTTRACE_CONFIG": str(path)}

    return write


def problem(**arguments):
    with pytest.raises(ConfigError) as caught:
        load(**arguments)
    return str(caught.value)


def test_everything_has_a_default():
    settings = load(env=HOME)
    assert settings.window_s == 60
    assert settings.tenant_trusted_peers == ("127.0.0.0/8", "::1/128")
    assert settings.prices is None
    assert {row.source for row in explain(env=HOME)} == {"default"}


def test_flag_beats_variable_beats_file_beats_default(file):
    env = file("window_s: 300\nlinger_ms: 500\nsensor_hz: 2.5\n") | {
        "COSTTRACE_WINDOW_S": "900",
        "COSTTRACE_LINGER_MS": "700",
    }
    flags = {"window_s": 1800, "linger_ms": None}
    settings = load(flags, env)
    assert (settings.window_s, settings.linger_ms, settings.sensor_hz, settings.head_fee) == (1800, 700, 2.5, "request")
    assert source_of("window_s", overrides=flags, env=env) == ("window_s", "1800", "command line")
    assert source_of("linger_ms", overrides=flags, env=env).source == "COSTTRACE_LINGER_MS"
    assert source_of("sensor_hz", overrides=flags, env=env).source == env["COSTTRACE_CONFIG"]
    assert source_of("head_fee", overrides=flags, env=env).source == "default"
    assert source_of("config", overrides=flags, env=env).value == env["COSTTRACE_CONFIG"]


@pytest.mark.parametrize("tier", ["T3", "T5"])
def test_a_removed_tier_counts_as_auto_and_the_warning_names_the_remedy_once(file, caplog, tier):
    config._warn_once.cache_clear()
    env = file(f"trtllm_tier: {tier}\n")
    for _ in range(2):
        assert load(env=env).trtllm_tier == "auto"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == (
        f"costtrace: {env['COSTTRACE_CONFIG']}: trtllm_tier='{tier}': this value was removed, 'auto' is used. "
        "Remove the setting, or give it another value. One of `auto`, `T1`, `T1-native`, `T2`."
    )


def test_a_removed_tier_is_accepted_from_the_environment_too_and_an_unknown_one_is_not(caplog):
    config._warn_once.cache_clear()
    assert source_of("trtllm_tier", env=HOME | {"TRTLLM_COSTTRACE_TRTLLM_TIER": "T5"}).value == "auto"
    assert "TRTLLM_COSTTRACE_TRTLLM_TIER='T5': this value was removed" in caplog.text
    assert "TRTLLM_TIER='T4'" in problem(env=HOME | {"COSTTRACE_TRTLLM_TIER": "T4"})


def test_the_prefix_that_tensorrt_llm_forwards_is_understood_and_the_plain_one_goes_first():
    env = HOME | {"TRTLLM_COSTTRACE_WINDOW_S": "300", "TRTLLM_COSTTRACE_AGENT": "off", "COSTTRACE_AGENT": "external"}
    settings = load(env=env)
    assert settings.window_s == 300
    assert settings.agent == "external"
    assert source_of("window_s", env=env).source == "TRTLLM_COSTTRACE_WINDOW_S"


def test_an_empty_variable_is_not_set():
    assert load(env=HOME | {"COSTTRACE_WINDOW_S": "", "COSTTRACE_NONSENSE": ""}).window_s == 60


def test_home_follows_the_xdg_directories():
    assert load(env=HOME).home == Path("/home/someone/.local/state/costtrace")
    assert load(env=HOME | {"XDG_STATE_HOME": "/state"}).home == Path("/state/costtrace")
    assert load(env=HOME | {"XDG_STATE_HOME": "/state", "COSTTRACE_HOME": "/data"}).home == Path("/data")
    assert config.home({"COSTTRACE_HOME": "/data"}) == Path("/data")


def test_without_any_account_there_is_still_an_absolute_home():
    assert config.default_home({"HOME": "relative"}).is_absolute()


def test_relative_paths_become_absolute_and_those_of_the_file_count_from_it(file, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert load(env=HOME | {"COSTTRACE_HOME": "state"}).home == Path("/state")
    assert load(env=file("prices: prices.yaml\n")).prices == tmp_path / "prices.yaml"
    assert load(env=file("carbon_intensity: grid.csv\n")).carbon_intensity == str(tmp_path / "grid.csv")
    assert load(env=file("carbon_intensity: '380.5'\n")).carbon_intensity == "380.5"
    assert load(env=file("carbon_intensity: ''\n")).carbon_intensity == ""
    of_variable = file("carbon_intensity: grid.csv\n") | {"COSTTRACE_CARBON_INTENSITY": "other.csv"}
    assert load(env=of_variable).carbon_intensity == "/other.csv"


@pytest.mark.parametrize("written", ["[a/b, ~/c, /d]", "a/b, ~/c,/d"])
def test_each_home_of_a_list_in_the_file_counts_from_it(file, tmp_path, monkeypatch, written):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/someone")
    homes = load(env=file(f"remote_homes: {written}\n")).remote_homes
    assert homes == (tmp_path / "a/b", Path("/home/someone/c"), Path("/d"))
    assert load(env=file("remote_homes: none\n")).remote_homes == ()
    assert load(env=HOME | {"COSTTRACE_REMOTE_HOMES": "a,/d"}).remote_homes == (Path("/a"), Path("/d"))


def test_every_path_is_absolute_and_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/someone")
    paths = [key for key, field in Settings.model_fields.items() if field.annotation in {Path, Path | None}]
    for value, path in (("~/b.yaml", "/home/someone/b.yaml"), ("b.yaml", "/b.yaml")):
        settings = load(env=HOME | {f"COSTTRACE_{key.upper()}": value for key in paths})
        assert {key: getattr(settings, key) for key in paths} == dict.fromkeys(paths, Path(path))


@pytest.mark.parametrize("key", ["home", "prices", "tenants", "carbon_intensity", "remote_homes", "tenant_keys"])
@pytest.mark.parametrize(("path", "why"), [('"a\\0b"', "NUL"), ("~no-such-user/x", "home directory")])
def test_a_path_that_no_file_can_have_is_refused_with_its_line(file, key, path, why):
    env = file(f"host: x\n{key}: {path}\n")
    message = problem(env=env)
    assert message.startswith(f"{env['COSTTRACE_CONFIG']}: {key}=")
    assert "(line 2)" in message
    assert why in message


def test_lists_are_written_with_commas_or_as_yaml_lists(file):
    env = HOME | {"COSTTRACE_TENANT_TRUSTED_PEERS": " 10.0.0.0/8, ::1 ,", "COSTTRACE_COMPAT_PROFILES": "none"}
    settings = load(env=env)
    assert settings.tenant_trusted_peers == ("10.0.0.0/8", "::1")
    assert settings.compat_profiles == ()
    assert load(env=file("tenant_headers: [X-Team]\n")).tenant_headers == ("x-team",)
    assert load(env=file("tenant_headers: x-a,x-b\n")).tenant_headers == ("x-a", "x-b")


def test_sizes_may_have_a_unit():
    assert load(env=HOME | {"COSTTRACE_JOURNAL_CAP_BYTES": "2GiB"}).journal_cap_bytes == 2 << 30


def test_the_tenancy_policy_is_made_of_the_settings():
    env = HOME | {"COSTTRACE_TENANT_TRUSTED_PEERS": "10.0.0.0/8", "COSTTRACE_TENANT_DEFAULT": "shared"}
    policy = policy_of(load(env=env))
    assert policy.trusts("10.0.0.1")
    assert not policy.trusts("127.0.0.1")
    assert policy.default == "shared"


def test_an_unknown_variable_names_the_nearest_and_never_its_value():
    message = problem(env=HOME | {"COSTTRACE_WINDOWS": "sk-secret"})
    assert "COSTTRACE_WINDOWS" in message
    assert "COSTTRACE_WINDOW_S" in message
    assert "secret" not in message
    assert "TRTLLM_COSTTRACE_HOME" in problem(env=HOME | {"TRTLLM_COSTTRACE_HOM": "x"})


def test_an_unknown_key_of_the_file_names_the_file_and_the_nearest(file):
    env = file("pricebook: x\n")
    message = problem(env=env)
    assert env["COSTTRACE_CONFIG"] in message
    assert "'pricebook'" in message
    assert "'prices'" in message


def test_an_unknown_flag_is_an_error_too():
    assert "'home'" in problem(overrides={"homes": "x"}, env=HOME)


def test_all_problems_are_said_at_once(file):
    env = file("head_fee: nobody\nfoo: 1\n") | {"COSTTRACE_WINDOW_S": "7", "COSTTRACE_BAR": "1"}
    assert len(problem(env=env).splitlines()) == 4


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("WINDOW_S", "7", "divide 3600"),
        ("WINDOW_S", "sixty", "integer"),
        ("AGENT", "maybe", "`external`"),
        ("SENSOR_HZ", "100", "to 20"),
        ("SENSOR_HZ", "nan", "finite"),
        ("PROMETHEUS_PORT", "70000", "65535"),
        ("TENANT_TRUSTED_PEERS", "10.0.0.0/33", "10.0.0.0/33"),
        ("TENANT_HEADERS", "x tenant", "HTTP header"),
        ("TENANT_DEFAULT", "__other__", "printable ASCII"),
        ("TENANT_DEFAULT", "grün", "printable ASCII"),
        ("CURRENCY", "dollars", "Example: USD"),
        ("JOURNAL_CAP_BYTES", "1MiB", "Example: 4GiB"),
        ("ENABLED", "perhaps", "boolean"),
    ],
)
def test_a_wrong_value_is_named_with_its_source_and_what_is_allowed(key, value, says):
    message = problem(env=HOME | {f"COSTTRACE_{key}": value})
    assert message.startswith(f"COSTTRACE_{key}='{value}'")
    assert says in message
    assert len(message.splitlines()) == 1


def test_a_wrong_value_in_the_file_is_named_with_the_file(file):
    env = file("window_s: [1, 2]\n")
    assert problem(env=env).startswith(f"{env['COSTTRACE_CONFIG']}: window_s=")


def test_a_setting_of_which_much_is_wrong_is_one_problem(file):
    env = file(f"host: x\ntenant_headers: [x-a, {', '.join(['[]'] * 2_000)}]\nwindow_s: 7\n")
    first, second = problem(env=env).splitlines()
    assert "tenant_headers=" in first
    assert "(line 2)" in first
    assert "window_s='7' (line 3)" in second


def test_yaml_words_that_are_booleans_are_not_taken_for_numbers_or_names(file):
    assert "false" in problem(env=file("agent: off\n"))
    assert "true" in problem(env=file("window_s: true\n"))


@pytest.mark.parametrize(
    "text", ["a: [", "- a\n- b\n", "window_s: 1\nwindow_s: 2\n", "1: 2\n", "home: !!python/name:os.system\n"]
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(file, text):
    env = file(text)
    assert env["COSTTRACE_CONFIG"] in problem(env=env)


def test_a_file_that_is_not_there_is_an_error_that_names_the_variable():
    message = problem(env=HOME | {"COSTTRACE_CONFIG": "/nowhere.yaml"})
    assert "COSTTRACE_CONFIG" in message
    assert "/nowhere.yaml" in message


def test_an_empty_file_and_an_empty_value_change_nothing(file):
    assert load(env=file("")) == load(env=HOME)
    assert load(env=file("prices:\n")).prices is None


def test_variables_that_kubernetes_makes_of_services_are_not_settings():
    env = HOME | {
        "COSTTRACE_SERVICE_HOST": "10.0.0.1",
        "COSTTRACE_SERVICE_PORT_OTLP": "4317",
        "COSTTRACE_PORT": "tcp://10.0.0.1:4317",
        "COSTTRACE_AGENT_PORT_9464_TCP_ADDR": "10.0.0.1",
        "COSTTRACE_PROMETHEUS_PORT": "tcp://10.0.0.1:9464",
    }
    assert load(env=env) == load(env=HOME)
    assert "COSTTRACE_PORT" in problem(env=HOME | {"COSTTRACE_PORT": "4317"})


def test_variables_of_the_simulator_and_the_tests_are_not_settings():
    env = HOME | {"COSTTRACE_NVML_SIM": "/sim", "COSTTRACE_NVML_SIM_CLOCK": "x", "COSTTRACE_TEST_DATA": "/data"}
    assert load(env=env) == load(env=HOME)
    assert "COSTTRACE_TESTS" in problem(env=HOME | {"COSTTRACE_TESTS": "1"})


def test_the_reference_has_every_setting_once_with_text_unit_and_example():
    page = configuration_markdown()
    for key in KEYS:
        assert page.count(f"| `{key}` |") == 1
        about = config.about(key)
        assert about.group in GROUPS
        assert about.example, key
        assert about.text.endswith("."), key


def test_every_example_of_the_reference_is_accepted():
    for key in KEYS:
        load(env=HOME | {f"COSTTRACE_{key.upper()}": config.about(key).example})


def test_what_is_shown_can_be_written_again():
    first = load(env=HOME | {"COSTTRACE_COMPAT_PROFILES": "none", "COSTTRACE_ENABLED": "no"})
    again = {f"COSTTRACE_{key.upper()}": config.show(getattr(first, key)) for key in KEYS}
    assert load(env=again) == first


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().window_s = 1


def test_an_engine_that_imports_the_settings_gets_nothing_heavy():
    heavy = "yaml click rich opentelemetry prometheus_client sqlite3"
    code = (
        f"import sys, costtrace.config.load as c; c.load(); print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
