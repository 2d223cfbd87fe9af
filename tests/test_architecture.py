"""The direction of every arrow: what each module of costtrace may import. A module that is in no layer fails here.

vocabulary <- arithmetic <- reports                     pure: the same input gives the same output, anywhere
vocabulary <- engine side                               imported by an engine's process: nothing it does not have
            everything above <- edges <- wiring         files, sockets, clocks, libraries

`src/costtrace` imports no engine: what knows an engine lives in `plugins/`.
"""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

LAYERS = {
    "vocabulary": "errors units events usage semconv telemetry_page walltime carried prefix_numbers",
    "arithmetic": "apportion virtual_time step_model timeline sharing work regression energy_model energy_windows "
    "staging accounts head_fee device_peaks step_fit fit_sums fit_row nnls open_requests attribution node rating "
    "time_of_use carbon price_book conserve sensors.counting sensors.period sensors.resolve price_terms price_diff "
    "list_prices idle_policies budgets energy_lag energy_check energy_hold remote_meters forward_passes window sliding "
    "prefix_tree fit_start beyond_knee",
    "reports": "reports tokenomics ui.frame ui.pages",
    "engine side": "__init__ agent.__init__ agent.lock agent.spawn recorder journal clock guard tenancy settings "
    "admission config late hook_check hook_status engine_journal engine_settings device_names model_shape asgi "
    "tenant_sources setting_field settings_tenants settings_energy cost_estimates",
    "edges": "yamlfile carbonfile prices sensors ledger emit nvml_sim.detect tenants_file price_fields export "
    "clickhouse budgets_file dynamo_traces",
    "wiring": "agent cli demo doctor nvml_sim testing simulator replay planning ui __main__",
}
"""Every module by its layer; a package stands for all in it. What does not exist yet is allowed to be missing."""

MAY_IMPORT = {
    "vocabulary": {"vocabulary"},
    "arithmetic": {"vocabulary", "arithmetic"},
    "reports": {"vocabulary", "arithmetic", "reports"},
    "engine side": {"vocabulary", "engine side"},
    "edges": {"vocabulary", "arithmetic", "reports", "engine side", "edges"},
    "wiring": set(LAYERS),
}
PURE = {"vocabulary", "arithmetic", "reports"}
AGENT_LIBRARIES = "click google grpc msgspec opentelemetry prometheus_client pydantic pynvml requests rich yaml"
EXTRAS = "clickhouse_connect pyarrow reportlab"
"""Imported inside functions: what is not installed is missed only where it is needed."""
LIBRARIES = {
    "vocabulary": {"msgspec"},
    "arithmetic": {"msgspec"},
    "reports": {"msgspec"},
    "engine side": {"msgspec", "pydantic"},
    "edges": {*AGENT_LIBRARIES.split(), *EXTRAS.split()},
    "wiring": set(AGENT_LIBRARIES.split()),
}
EXCEPTIONS = {
    ("costtrace.reports.render", "rich"): "the width of characters on a screen; a pure function",
    ("costtrace.tenant_sources", "jwt"): "imported only where a JWKS file is set",
    ("costtrace.config", "costtrace.yamlfile"): "imported only where a configuration file is named",
}
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
ENGINES = {"vllm", "tensorrt_llm", "dynamo", "sglang", "torch", "transformers"}


class Import(NamedTuple):
    """One import, as the module that is meant."""

    importer: str
    imported: str
    line: int


def module_name(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def layers_of(module):
    """The layers that claim a module; what is more exact goes first (agent.lock before agent)."""
    inner = module.removeprefix("costtrace.")
    claims = [(name, layer) for layer, names in LAYERS.items() for name in names.split()]
    fits = [(len(name), layer) for name, layer in claims if inner == name or inner.startswith(f"{name}.")]
    longest = max((length for length, _ in fits), default=0)
    return [layer for length, layer in fits if length == longest]


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


ALL = [found for module, path in MODULES.items() for found in imports_of(module, path)]


def excepted(found):
    return any(
        found.importer == importer and (found.imported == name or found.imported.startswith(f"{name}."))
        for importer, name in EXCEPTIONS
    )


def complain(complaints):
    assert not complaints, "\n" + "\n".join(complaints)


def where(found):
    return f"{MODULES[found.importer].relative_to(ROOT)}:{found.line}: {found.importer}"


def test_every_module_stands_in_exactly_one_layer():
    complain(
        [
            f"{module} is in {layers_of(module) or 'no layer'}: put it into LAYERS of {Path(__file__).name}"
            for module in MODULES
            if len(layers_of(module)) != 1
        ]
    )


def test_a_layer_imports_only_from_the_layers_it_may():
    complaints = []
    for found in ALL:
        target = resolve(found.imported)
        if target is None or excepted(found):
            continue
        layer, other = layers_of(found.importer)[0], layers_of(target)[0]
        if other not in MAY_IMPORT[layer]:
            complaints.append(f"{where(found)} ({layer}) imports {target} ({other})")
    complain(complaints)


def test_libraries_are_imported_only_where_they_may_be():
    complaints = []
    for found in ALL:
        top = found.imported.split(".")[0]
        layer = layers_of(found.importer)[0]
        if top == "costtrace" or top in sys.stdlib_module_names or excepted(found):
            continue
        if top not in LIBRARIES[layer]:
            complaints.append(f"{where(found)} ({layer}) imports {found.imported}")
    complain(complaints)


def test_costtrace_imports_no_engine():
    complain([f"{where(found)} imports {found.imported}" for found in ALL if found.imported.split(".")[0] in ENGINES])


def test_pure_modules_import_nothing_that_looks_at_the_world():
    complain(
        [
            f"{where(found)} imports {found.imported}"
            for found in ALL
            if layers_of(found.importer)[0] in PURE
            and found.imported.split(".")[0] in IMPURE
            and found.imported not in PURE_PARTS
        ]
    )


def impure_calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            if name in IMPURE_CALLS:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: calls {name}()"


def test_pure_modules_read_no_clock_and_no_file():
    pure = [path for module, path in MODULES.items() if layers_of(module)[0] in PURE]
    complain([complaint for path in pure for complaint in impure_calls(path)])


def test_the_imports_of_the_costtrace_modules_form_no_circle():
    edges = {module: set() for module in MODULES}
    for found in ALL:
        target = resolve(found.imported)
        if target is not None and target != found.importer and not target.endswith("__init__") and not excepted(found):
            edges[found.importer].add(target)
    edges["costtrace.tenancy"].discard("costtrace.config")  # inside a function: the default policy is the settings'
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
    translators = sorted((ROOT / "plugins").glob("*/src/*/translate.py"))
    complain([complaint for path in translators for complaint in impurities_of_translator(path)])


def impurities_of_translator(path):
    yield from impure_calls(path)
    for found in imports_of(path.parent.name, path):
        top = found.imported.split(".")[0]
        target = resolve(found.imported)
        pure = layers_of(target)[0] in PURE if target else top in {"msgspec", path.parent.name}
        # It handles what the recorder recorded, and gives up a record that it cannot read without giving up the rest.
        pure = pure or target in {"costtrace.recorder", "costtrace.guard"}
        if not pure and (top not in sys.stdlib_module_names or top in IMPURE):
            yield f"{path.relative_to(ROOT)}:{found.line}: imports {found.imported}"


def test_an_engine_process_gets_no_more_than_it_has():
    """The real import, not only what stands in the files."""
    import subprocess

    side = [m.removesuffix(".__init__") for m in MODULES if layers_of(m)[0] == "engine side"]
    heavy = {*AGENT_LIBRARIES.split(), *EXTRAS.split()} - {"msgspec", "pydantic"} | ENGINES | {"sqlite3"}
    code = f"import sys\nfor m in {side!r}: __import__(m)\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
