"""The reference documents say what the code does, and the others name nothing that is not there."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from costtrace_vllm.server_side.routes import route_of
from documents import DOCUMENTS, FENCE, commands, fenced, inline

from costtrace.cli.app import cli
from costtrace.config import load as config
from costtrace.core import semconv
from costtrace.pricing.price_book_file import load_price_book

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "gen_docs.py"
EXAMPLES = ROOT / "examples"
WRITTEN = [*DOCUMENTS, *(path for path in sorted(EXAMPLES.rglob("*")) if path.is_file() and path.suffix != ".md")]
"""All that a user reads or copies."""


def name_of(path):
    return str(path.relative_to(ROOT))


def complain(problems):
    assert not problems, "\n" + "\n".join(problems)


def generate(*arguments):
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, check=False)


def test_the_reference_documents_are_fresh():
    done = generate("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_page_is_named_with_its_difference(tmp_path):
    assert generate("--docs", tmp_path).returncode == 0
    assert generate("--check", "--docs", tmp_path).returncode == 0
    page = tmp_path / "configuration.md"
    page.write_text(page.read_text().replace("`window_s`", "`window`"))
    done = generate("--check", "--docs", tmp_path)
    assert done.returncode == 1
    assert "-| `window` |" in done.stdout
    assert "+| `window_s` |" in done.stdout
    assert "make docs" in done.stderr


def test_a_page_that_is_missing_is_stale(tmp_path):
    assert generate("--check", "--docs", tmp_path).returncode == 1


# -- settings and metrics


def is_setting(name):
    key = name.removeprefix(config.PREFIX)
    known = key.lower() in (*config.KEYS, config.FILE_KEY)
    return known or config._OTHERS.match(key) or config._SERVICE_LINK.search(name)


def test_every_variable_that_is_named_is_a_setting():
    complain(
        [
            f"{name_of(path)}: there is no setting {name}"
            for path in WRITTEN
            for name in re.findall(r"(?<!\w)COSTTRACE_[A-Z0-9_]+\b", path.read_text(encoding="utf-8"))
            if not is_setting(name)
        ]
    )


PACKAGES = tuple(path.name for path in ROOT.glob("plugins/*/src/*/"))


def test_every_metric_that_is_named_is_emitted():
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("", "_bucket", "_sum", "_count")}
    known = {
        m.prometheus + suffix for m in (*semconv.METRICS, *semconv.BUDGET_METRICS) for suffix in suffixes[m.instrument]
    }
    # Labels of a metric that came by OTLP.
    known |= {a.name.replace(".", "_") for m in semconv.METRICS for a in m.attributes}
    complain(
        [
            f"{name_of(path)}: nothing emits {name}"
            for path in WRITTEN
            for name in re.findall(r"(?<![\w.])costtrace_[a-z_]+\b", path.read_text(encoding="utf-8"))
            if name not in known and not name.startswith(PACKAGES)
        ]
    )


def test_every_route_of_a_query_is_one_that_a_request_can_have():
    asked = [
        (name_of(path), route)
        for path in WRITTEN
        for route in re.findall(r"costtrace\.label\.route *= *\"?([\w/]+)", path.read_text(encoding="utf-8"))
    ]
    assert asked
    complain(
        [f"{name}: no request has the route {route}" for name, route in asked if route_of(f"/v1/{route}") != route]
    )


def test_every_span_attribute_of_a_query_is_emitted():
    known = {attribute.name for attribute in semconv.attributes()}
    complain(
        [
            f"{name_of(path)}: no span has {name}"
            for path in WRITTEN
            for name in re.findall(r"\bspan\.([a-z_]+(?:\.[a-z_]+)+)", path.read_text(encoding="utf-8"))
            if name not in known and not name.startswith(semconv.LABEL_PREFIX)
        ]
    )


# -- commands


def parse(words):
    """Parse a command line as click would, without running it. Raises: click.UsageError."""
    command, context = cli, click.Context(cli, info_name="costtrace")
    while isinstance(command, click.Group):
        if not words or words[0] == "--help":
            return
        inner = command.get_command(context, words[0])
        if inner is None:
            raise click.UsageError(f"there is no command {words[0]!r}")
        command, context, words = inner, click.Context(inner, context, words[0]), words[1:]
    try:
        command.make_context(command.name, list(words), parent=context)
    except click.exceptions.Exit:
        return  # --help
    except click.MissingParameter:
        return  # a command that is talked about
    except click.BadParameter as error:
        if not isinstance(error.param.type, click.Path):
            raise


def test_every_command_line_that_is_shown_can_be_typed():
    complaints, count = [], 0
    for path in DOCUMENTS:
        if path.name == "cli.md":  # made from the help itself
            continue
        for line in commands(path):
            count += 1
            try:
                parse(shlex.split(line))
            except click.UsageError as error:
                complaints.append(f"{name_of(path)}: costtrace {line}: {error.format_message()}")
    complain(complaints)
    assert count > 50


@pytest.mark.parametrize("line", ["reprot", "report --bye tenant", "verify --limit many", "prices chek x.yaml"])
def test_a_command_line_that_cannot_be_typed_is_found(line):
    with pytest.raises(click.UsageError):
        parse(shlex.split(line))


def test_every_make_rule_that_is_named_exists():
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    complain(
        [
            f"{name_of(path)}: there is no rule {match[1]}"
            for path in DOCUMENTS
            for text in [path.read_text(encoding="utf-8")]
            for code in [*inline(text), *(line for body in fenced(text, "sh") for line in body.splitlines())]
            if (match := re.match(r"make ([a-z-]+)", code)) and match[1] not in rules
        ]
    )


def test_nobody_is_told_to_install_somebody_elses_project():
    wrong = re.compile(r"(pip|uv)\s+install\s+([^\n`]*\s)?[\"']?costtrace(?![-\w./])")
    complain([name_of(path) for path in WRITTEN if wrong.search(path.read_text(encoding="utf-8"))])


# -- files and links


def slugs(path):
    """Anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere():
    complaints = []
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8"))):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.exists():
                complaints.append(f"{name_of(path)}: {link} does not exist")
            elif anchor and anchor not in slugs(file):
                complaints.append(f"{name_of(path)}: {link}: there is no such heading")
    complain(complaints)


def test_every_file_that_is_named_exists():
    ours = re.compile(r"(src|docs|tests|tools|examples|plugins|evaluation|benchmarks|\.ci)/[\w./-]*\w")
    complain(
        [
            f"{name_of(path)}: there is no {code}"
            for path in DOCUMENTS
            for code in inline(path.read_text(encoding="utf-8"))
            if ours.fullmatch(code) and not (ROOT / code).exists() and not (path.parent / code).exists()
        ]
    )


# -- the rules of the method

RULES = ROOT / "docs" / "method" / "rules.md"
RULE = re.compile(r"^- \*\*(\d+)\.(\d+)\*\* (.*?)(?=^- \*\*|^## |\Z)", re.MULTILINE | re.DOTALL)
NAMED_TEST = re.compile(r"`((?:tests|plugins)/[\w./-]+\.py)(?:::(\w+))?`")


def rules():
    """(number, text) of each numbered rule, and that no line that looks like one was passed over."""
    text = RULES.read_text(encoding="utf-8")
    rules = [((int(rule[1]), int(rule[2])), rule[3]) for rule in RULE.finditer(text)]
    assert len(rules) == len(re.findall(r"^\s*[-*] \*\*\d", text, re.MULTILINE))
    return rules


def defined_tests(path):
    """Functions of a file that are tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_litellm_is_said_to_read_its_header_and_not_the_cost_in_usage():
    page = (ROOT / "docs" / "cost-span.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| `usage.cost` |")]
    assert "LiteLLM" not in row
    assert "`x-litellm-response-cost`" in page


def test_rules_are_numbered_in_order_within_their_sections():
    numbers = [number for number, _ in rules()]
    sections = sorted({section for section, _ in numbers})
    expected = [
        (section, place) for section in sections for place in range(1, 1 + sum(one == section for one, _ in numbers))
    ]
    assert numbers == expected
    assert sections == list(range(1, len(sections) + 1))
    assert len(numbers) > 50


def test_every_rule_names_a_test_that_holds_it():
    complain([f"rule {a}.{b} names no test" for (a, b), text in rules() if not NAMED_TEST.search(text)])


def test_every_test_that_a_rule_names_exists():
    complaints = []
    for (a, b), text in rules():
        for name, function in NAMED_TEST.findall(text):
            path = ROOT / name
            if not path.exists():
                complaints.append(f"rule {a}.{b}: there is no {name}")
            elif not (known := defined_tests(path)) or (function and function not in known):
                complaints.append(f"rule {a}.{b}: {name} has no {function or 'test'}")
    complain(complaints)


# -- YAML and examples


def test_all_yaml_can_be_read():
    texts = [(path, path.read_text(encoding="utf-8")) for path in [*EXAMPLES.rglob("*.yaml"), *EXAMPLES.rglob("*.yml")]]
    texts += [(path, body) for path in DOCUMENTS for body in fenced(path.read_text(encoding="utf-8"), "yaml")]
    for path, text in texts:
        assert all(yaml.safe_load_all(text)), path
    assert len(texts) > 5


def test_the_price_books_of_the_examples_can_be_used():
    for path in (EXAMPLES / "prices").glob("*.yaml"):
        assert load_price_book(path).devices


def services():
    compose = yaml.safe_load((EXAMPLES / "vllm" / "compose.yaml").read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        plain = {
            key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
            for key, value in service.get("environment", {}).items()
        }
        yield name, service, plain


def test_the_containers_of_the_example_have_settings_that_fit_each_other():
    loaded = {name: config.load(env=env) for name, _, env in services() if "COSTTRACE_HOME" in env}
    assert loaded.keys() == {"vllm", "agent"}
    assert loaded["vllm"].home == loaded["agent"].home
    assert loaded["vllm"].host == loaded["agent"].host
    assert loaded["vllm"].agent == "external"
    scraped = yaml.safe_load((EXAMPLES / "vllm" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert f"agent:{loaded['agent'].prometheus_port}" in scraped[0]["static_configs"][0]["targets"]
    assert (EXAMPLES / "prices" / loaded["agent"].prices.name).exists()


def test_the_containers_of_the_example_mount_files_that_exist_and_publish_on_loopback_only():
    for name, service, _ in services():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (EXAMPLES / "vllm" / source).exists(), (name, volume)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_dockerfile_of_the_example_copies_what_exists():
    copied = re.findall(
        r"^COPY (.*) \S+$", (EXAMPLES / "vllm" / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
