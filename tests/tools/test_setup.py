import os
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

import installer
import platform_checks as checks
import pytest
import setup_common
import setup_vllm
from setup_common import SetupError, Stages, content_hash, locked, project_sources, read_json, run_main, write_json

TOOLS = Path(setup_common.__file__).parent


def interpreter(folder: Path, version: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "ppc64le")])
def test_a_platform_without_wheels_is_named(system, machine):
    with pytest.raises(SetupError, match=f"this is {system} on {machine}"):
        checks.check_platform(system, machine)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_platforms_with_wheels_pass(machine):
    checks.check_platform("Linux", machine)


def test_a_processor_without_avx2_is_told_what_it_lacks():
    with pytest.raises(SetupError, match="lacks avx2, which") as raised:
        checks.check_flags("x86_64", "model name : Old\nflags\t\t: fpu sse4_2 avx fma f16c\n")
    assert "Haswell" in raised.value.remedy


def test_a_processor_with_avx2_passes():
    checks.check_flags("x86_64", "flags\t\t: fpu fma f16c avx2\n")
    checks.check_flags("aarch64", "Features\t: fp asimd\n")


@pytest.mark.parametrize(("library", "version"), [("glibc", "2.17"), ("", ""), ("musl", "1.2")])
def test_a_c_library_that_the_wheels_do_not_fit_is_refused(library, version):
    with pytest.raises(SetupError, match=r"needs glibc 2\.28"):
        checks.check_glibc(library, version)


def test_a_newer_c_library_passes():
    checks.check_glibc("glibc", "2.36")


@pytest.mark.parametrize("version", ["3 10", "3 15"])
def test_a_python_without_wheels_is_refused_with_the_versions_that_have_them(tmp_path, version):
    with pytest.raises(SetupError, match=r"runs on 3\.11 to 3\.14"):
        checks.check_python(interpreter(tmp_path, version))


def test_a_full_disk_is_seen_before_anything_is_fetched(tmp_path):
    with pytest.raises(SetupError, match=r"GB free; vLLM and PyTorch need"):
        checks.check_space(tmp_path / "not" / "there" / "yet", needed=2**62)


def test_a_machine_without_lscpu_is_told_where_it_comes_from():
    with pytest.raises(SetupError) as raised:
        checks.check_lscpu(None)
    assert "util-linux" in raised.value.remedy


def test_pips_configuration_is_read_as_pip_reads_it(tmp_path, monkeypatch):
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://one.test/simple\nfind-links = /wheels\n    /more\n"
        "[install]\nfind-links = /install-only\n"
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_INDEX_URL", "https://two.test/simple")
    settings = installer.pip_settings(sys.executable)
    assert settings["index-url"] == "https://two.test/simple"
    assert settings["find-links"] == "/install-only"


def test_pips_settings_become_uvs_options():
    words = installer.uv_arguments(
        {"find-links": "/a /b", "extra-index-url": "https://x.test/simple", "no-index": "true", "timeout": "9"}
    )
    assert words[2:] == [
        "--extra-index-url",
        "https://x.test/simple",
        "--find-links",
        "/a",
        "--find-links",
        "/b",
        "--no-index",
    ]


def test_certificates_reach_uv_unless_they_are_set_already(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert installer.uv_environment({"cert": "/ca.pem"})["SSL_CERT_FILE"] == "/ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    assert "SSL_CERT_FILE" not in installer.uv_environment({"cert": "/ca.pem"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("  cause: dns error", "could not be reached"),
        ("NewConnectionError(...)", "could not be reached"),
        ("something else", "failed"),
    ],
)
def test_a_failed_install_says_what_the_log_says(tmp_path, line, message):
    stages = Stages("test", tmp_path / "log")
    work = installer.Installer(stages, Path(sys.executable), "pip")
    stages.note(line)
    assert message in str(work.failure("installing it"))


def test_an_extra_index_that_does_not_answer_is_left_out_at_once(tmp_path):
    stages = Stages("test", tmp_path / "log")
    work = installer.Installer(stages, Path(sys.executable), "pip")
    began = time.monotonic()
    assert not work._reachable(("--extra-index-url", "http://127.0.0.1:9/simple"))
    assert time.monotonic() - began < 5
    assert work._reachable(())


def test_two_set_ups_take_turns(tmp_path):
    script = (
        f"import sys, time; from pathlib import Path; sys.path.insert(0, {str(TOOLS)!r})\n"
        "from setup_common import locked\n"
        "with locked(Path(sys.argv[1]) / 'lock', 'one'):\n"
        "    print('in', flush=True); time.sleep(0.5); (Path(sys.argv[1]) / 'left').touch()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with locked(tmp_path / "lock", "two"):
            assert (tmp_path / "left").exists()


def test_a_lock_dies_with_its_holder(tmp_path):
    script = (
        f"import sys, os; from pathlib import Path; sys.path.insert(0, {str(TOOLS)!r})\n"
        "from setup_common import locked\n"
        "with locked(Path(sys.argv[1]) / 'lock', 'one'): os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == 9
    with locked(tmp_path / "lock", "two"):
        pass


def test_the_hash_of_the_sources_follows_names_and_contents_but_not_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_common, "ROOT", tmp_path)
    (tmp_path / "src" / "__pycache__").mkdir(parents=True)
    file = tmp_path / "src" / "a.py"
    file.write_text("1")
    first = content_hash([tmp_path / "src"])
    (tmp_path / "src" / "__pycache__" / "a.pyc").write_text("x")
    assert content_hash([tmp_path / "src"]) == first
    file.write_text("2")
    second = content_hash([tmp_path / "src"])
    file.rename(tmp_path / "src" / "b.py")
    assert len({first, second, content_hash([tmp_path / "src"])}) == 3


def test_only_what_is_installed_beside_an_engine_makes_its_environment_install_costtrace_again(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_common, "ROOT", tmp_path)
    monkeypatch.setattr(setup_common, "PLUGINS", tmp_path / "plugins")

    def changed(name):
        before = content_hash(project_sources("costtrace-vllm"))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        return content_hash(project_sources("costtrace-vllm")) != before

    assert changed("pyproject.toml")
    assert changed("src/a.py")
    assert changed("plugins/costtrace-vllm/src/a.py")
    assert not changed("plugins/costtrace-vllm/tests/test_a.py")
    assert not changed("plugins/costtrace-board/src/a.py")
    assert not changed("plugins/conftest.py")
    # a file that is named counts wherever it is
    (tmp_path / "tests").mkdir()
    requirements = tmp_path / "tests" / "requirements-peers.txt"
    requirements.write_text("1")
    first = content_hash([requirements])
    requirements.write_text("2")
    assert content_hash([requirements]) != first


def test_a_torn_stamp_counts_as_none(tmp_path):
    write_json(tmp_path / "stamp", {"a": 1})
    assert read_json(tmp_path / "stamp") == {"a": 1}
    (tmp_path / "stamp").write_text('{"a": ')
    assert read_json(tmp_path / "stamp") is None
    assert read_json(tmp_path / "missing") is None


def test_a_stage_keeps_what_its_commands_print_and_reports_their_status(tmp_path, capsys):
    stages = Stages("test", tmp_path / "log")
    with stages.stage("doing it"):
        status = stages.run([sys.executable, "-c", "print('said this'); raise SystemExit(3)"])
    assert status == 3
    assert "said this" in stages.log_text()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "doing it: done in 0 s" in printed.err


def test_an_error_shows_its_remedy_and_fails_the_command(capsys):
    def fail() -> None:
        raise SetupError("this is wrong", "do that")

    assert run_main(fail) == 1
    assert "error: this is wrong\nremedy: do that" in capsys.readouterr().err


def test_a_python_without_the_venv_module_is_told_the_package(tmp_path):
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho 3 12\nexit 1\n")
    path.chmod(0o755)
    with pytest.raises(SetupError) as raised:
        setup_common.require_venv_modules(str(path))
    assert "python3.12-venv" in raised.value.remedy


def test_vllm_finds_its_version_in_the_metadata_that_is_added(tmp_path):
    setup_vllm.write_vllm_metadata(tmp_path, "0.32.0")
    setup_vllm.write_vllm_metadata(tmp_path, "0.32.0")
    assert [each.version for each in distributions(name="vllm", path=[str(tmp_path)])] == ["0.32.0+cpu"]


def test_an_unknown_python_has_no_vllm():
    assert setup_vllm.existing_vllm("/nonexistent/python") is None
