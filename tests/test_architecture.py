"""The direction of every arrow: the twelve packages of costtrace, bottom up, and what each may import.

    capture -> journal -> attribution -> pricing -> ledger -> telemetry | reports
            sensors  ^                  (agent runs it, cli shows it; core and config are below all)

`src/costtrace` imports no engine: what knows an engine lives in `plugins/`. It imports no plugin either: commands of
other distributions join by the entry-point group `costtrace.commands`, the fleet store by `costtrace.stores`.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

MAY_IMPORT = {
    "core": "",
    "config": "core",
    "journal": "core",
    "attribution": "core",
    "capture": "core config journal",
    "pricing": "core config",
    "sensors": "core journal",
    "ledger": "core config pricing",
    "telemetry": "core pricing ledger",
    "reports": "core config pricing ledger",
    "agent": "core config journal attribution capture pricing sensors ledger telemetry",
    "cli": "core config journal attribution capture pricing sensors ledger telemetry reports agent",
}
"""Every package, and the packages of costtrace that it may import beside itself."""

LIBRARIES = {
    "core": "msgspec",
    "config": "pydantic yaml",
    "journal": "msgspec",
    "attribution": "msgspec",
    "capture": "msgspec jwt",
    "pricing": "",
    "sensors": "msgspec pynvml",
    "ledger": "msgspec",
    "telemetry": "msgspec opentelemetry prometheus_client grpc google requests",
    "reports": "pyarrow rich",
    "agent": "msgspec",
    "cli": "msgspec click rich",
}
"""What else each may import. `test_an_engine_process_gets_no_more_than_it_has` holds when they are loaded."""

ENGINE_SIDE = ("core", "config", "journal", "capture")
"""What an engine's process may load."""
NOT_IN_AN_ENGINE = "click clickhouse_connect google grpc jwt opentelemetry prometheus_client pyarrow pynvml reportlab"
NOT_IN_AN_ENGINE += " requests rich yaml sqlite3"
ENGINES = "vllm tensorrt_llm dynamo sglang torch transformers"
MEMBERS = "costtrace_board costtrace_dynamo costtrace_fleet costtrace_lab costtrace_nvml_sim costtrace_tensorrt_llm"
MEMBERS += " costtrace_statements costtrace_ui costtrace_vllm"

PURE = "core attribution pricing reports ledger.verify ledger.budgets.budget ledger.budgets.status"
PURE += " sensors.energy_count sensors.sensor_period capture.prefix_numbers capture.request_context capture.model_shape"
"""The same input gives the same output, anywhere: no clock, file, thread or environment. What reads or writes files is
in a module that is called `*_file`, or in `reports.output`."""
PURE_IN_PLUGINS = "costtrace_board/*.py costtrace_dynamo/passes/*.py costtrace_ui/live/*.py costtrace_ui/svg.py"
PURE_IN_PLUGINS += " costtrace_ui/top/state.py costtrace_ui/web/html_parts.py costtrace_ui/web/pages.py"
PURE_IN_PLUGINS += (
    " costtrace_statements/*.py costtrace_statements/output/html.py costtrace_statements/output/document.py"
)
NOT_PURE = {"command.py", "trace_files.py", "load_generators.py", "provider_bill_file.py"}
"""Beside them: what starts programs and reads files."""
OF_THE_HOST = tuple(f"costtrace.core.{name}" for name in ("bounded_server", "clock", "files", "guard", "device_names"))
"""The part of the vocabulary that looks at the host; what is pure does not import it."""

BESIDE_AN_ENGINE = [("vllm", 31_000), ("tensorrt-llm", 31_000), ("vllm dynamo", 32_000)]
"""Plugins that are installed together, and how many lines they and costtrace-core have at most (decision 0091)."""

IMPURE = {
    "asyncio",
    "concurrent",
    "contextvars",
    "ctypes",
    "fcntl",
    "gc",
    "getpass",
    "glob",
    "http",
    "importlib",
    "locale",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "platform",
    "queue",
    "random",
    "resource",
    "sched",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
    "warnings",
    "weakref",
    "_thread",
}
"""Parts of the standard library that look at the world, or change it."""
PURE_PARTS = {"urllib.parse"}
"""Of those, what only writes and reads text."""
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "now", "today", "utcnow", "getenv"}


class Import(NamedTuple):
    """One import, as the module that is meant."""

    importer: str
    imported: str
    line: int


def module_name(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def package_of(module):
    """The first name below `costtrace`: one of the twelve; '' for what is beside them."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ""


def resolve(module):
    """The file that an import means: ``costtrace.ledger`` is ``costtrace.ledger.__init__``."""
    if module in MODULES:
        return module
    package = f"{module}.__init__"
    return package if package in MODULES else None


def imports_of(module, path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports out in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(module, inner if resolve(inner) else node.module, node.lineno)


ALL = [each for module, path in MODULES.items() for each in imports_of(module, path)]


def complain(complaints):
    assert not complaints, "\n" + "\n".join(complaints)


def where(each):
    return f"{MODULES[each.importer].relative_to(ROOT)}:{each.line}: {each.importer}"


def test_there_are_these_packages_and_nothing_loose_beside_them():
    beside = {path.name for path in (SOURCE / "costtrace").iterdir()} - {"__pycache__"}
    assert beside == {"__init__.py", "__main__.py", "py.typed", *MAY_IMPORT}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_may(package):
    may = [package, *MAY_IMPORT[package].split()]
    complaints = []
    for each in ALL:
        target = resolve(each.imported)
        if package_of(each.importer) != package or target is None or target == "costtrace.__init__":
            continue
        inner = target.removeprefix("costtrace.").removesuffix(".__init__")
        if not any(inner == name or inner.startswith(f"{name}.") for name in may):
            complaints.append(f"{where(each)} imports {target}; {package} may import {may[1:]}")
    complain(complaints)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_says_what_it_is_for_and_what_it_may_import(package):
    text = ast.get_docstring(ast.parse((SOURCE / "costtrace" / package / "__init__.py").read_text(encoding="utf-8")))
    line = next(line for line in text.splitlines() if line.startswith("May import: "))
    names = line.removeprefix("May import: ").partition(". ")[0].rstrip(".").replace(",", "")
    assert names == (MAY_IMPORT[package] or "no other package of costtrace")


def test_libraries_are_imported_only_where_they_may_be():
    complaints = []
    for each in ALL:
        top = each.imported.split(".")[0]
        if top == "costtrace" or top in sys.stdlib_module_names:
            continue
        if top not in LIBRARIES.get(package_of(each.importer), "").split():
            complaints.append(f"{where(each)} imports {each.imported}")
    complain(complaints)


def test_costtrace_imports_no_engine_and_no_plugin():
    theirs = {*ENGINES.split(), *MEMBERS.split()}
    complain([f"{where(each)} imports {each.imported}" for each in ALL if each.imported.split(".")[0] in theirs])


def is_pure(module):
    inner = module.removeprefix("costtrace.").removesuffix(".__init__")
    if module in OF_THE_HOST or inner.endswith("_file") or inner.startswith("reports.output."):
        return False
    return any(inner == name or inner.startswith(f"{name}.") for name in PURE.split())


def looks_at_the_world(imported):
    return imported not in PURE_PARTS and (imported.split(".")[0] in IMPURE or resolve(imported) in OF_THE_HOST)


def test_what_is_pure_imports_nothing_that_looks_at_the_world():
    assert all(resolve(f"costtrace.{name}") for name in PURE.split())
    pure = [each for each in ALL if is_pure(each.importer)]
    complain([f"{where(each)} imports {each.imported}" for each in pure if looks_at_the_world(each.imported)])


def impure_calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            if name in IMPURE_CALLS:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: calls {name}()"


def test_what_is_pure_reads_no_clock_and_no_file():
    complain([complaint for module, path in MODULES.items() if is_pure(module) for complaint in impure_calls(path)])


def test_what_is_pure_in_plugins_imports_and_reads_nothing_of_it_either():
    complaints = []
    for pattern in PURE_IN_PLUGINS.split():
        paths = [path for path in (ROOT / "plugins").glob(f"*/src/{pattern}") if path.name not in NOT_PURE]
        assert paths, pattern
        for path in paths:
            complaints += impure_calls(path)
            impure = [each for each in imports_of(path.stem, path) if looks_at_the_world(each.imported)]
            complaints += [f"{path.relative_to(ROOT)}:{each.line}: imports {each.imported}" for each in impure]
    complain(complaints)


def test_the_imports_of_the_costtrace_modules_form_no_circle():
    edges = {module: set() for module in MODULES}
    for each in ALL:
        target = resolve(each.imported)
        if target is not None and target != each.importer and not target.endswith("__init__"):
            edges[each.importer].add(target)
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(edges[module]):
            visit(other)
        done.add(path.pop())

    for module in edges:
        visit(module)


def test_the_translators_of_plugins_are_pure():
    translators = sorted((ROOT / "plugins").glob("*/src/**/translate.py"))
    assert len(translators) > 1
    complain([complaint for path in translators for complaint in impurities_of_translator(path)])


def impurities_of_translator(path):
    own = next(part for part in path.parts if part.startswith("costtrace_"))
    # It handles what the recorder recorded, and gives up a record that it cannot read without giving up the rest.
    allowed = {"costtrace.capture.recorder", "costtrace.capture.prefix_numbers", "costtrace.core.guard"}
    yield from impure_calls(path)
    for each in imports_of(path.stem, path):
        top, target = each.imported.split(".")[0], resolve(each.imported)
        pure = target in allowed or (package_of(target) == "core" and target not in OF_THE_HOST) if target else None
        if pure is None:
            pure = top in {"msgspec", own} or (top in sys.stdlib_module_names and top not in IMPURE)
        if not pure:
            yield f"{path.relative_to(ROOT)}:{each.line}: imports {each.imported}"


def test_an_engine_process_gets_no_more_than_it_has():
    """The real import, not only what is in the files."""
    side = [module.removesuffix(".__init__") for module in MODULES if package_of(module) in ENGINE_SIDE]
    side.remove("costtrace.config.yaml_file")  # loaded where a file is named
    heavy = {*NOT_IN_AN_ENGINE.split(), *ENGINES.split()}
    code = f"import sys\nfor m in {side!r}: __import__(m)\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("plugins", "lines"), BESIDE_AN_ENGINE)
def test_what_stands_beside_an_engine_is_small_and_only_the_product(plugins, lines):
    sources = [SOURCE, *(ROOT / "plugins" / f"costtrace-{name}" / "src" for name in plugins.split())]
    files = [path for source in sources for path in source.rglob("*.py")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= lines
    instruments = ("simulator", "double", "demo", "replay", "fake")
    complain(
        [str(path) for path in files for part in path.parts[len(ROOT.parts) :] if any(i in part for i in instruments)]
    )


def test_what_needs_a_real_server_is_in_the_folder_that_make_test_runs_for_it():
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "plugins").glob("*/tests/**/test_*.py")]
    marked = {path for path in files if "pytest.mark." + "vllm" in path.read_text(encoding="utf-8")}
    assert marked
    complain([str(path) for path in marked if ROOT / "tests" / "system" not in path.parents])
