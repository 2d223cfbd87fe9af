"""Source trees that look like TensorRT-LLM's to a reader that imports nothing."""

from costtrace_tensorrt_llm.contract.hook_list import HOOKS
from double.signatures import SEEN


def tree_of(folder, column, version="1.3.0"):
    """A source tree as the contract has it for a column, made from the contract itself. It cannot be imported."""
    classes: dict[str, dict[str, list[str]]] = {}
    for hook in OURS:
        seen = SEEN.get(hook.name, {})
        if hook.optional and column not in seen:
            continue
        body = classes.setdefault(hook.module, {}).setdefault(hook.owner, ["    pass"])
        if hook.function:
            parameters = seen.get(column, next(iter(seen.values()))).parameters
            declared = ", ".join(("self", *(name if name == "*" else f"{name}=None" for name in parameters)))
            body.append(f"    def {hook.function}({declared}): ...")
        body += [f"    {name}: int" for name in (*hook.reads, *hook.fields)]
    package = folder / "tensorrt_llm"
    for module, owners in classes.items():
        path = package.joinpath(*module.split(".")[1:]).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(f"class {name}:\n" + "\n".join(body) for name, body in owners.items())
        path.write_text(f"import tensorrt_llm.bindings\n{text}\n")
    (package / "__init__.py").write_text("raise ImportError('compiled libraries')\n")
    (package / "version.py").write_text(f'__version__ = "{version}"\n')
    return package


def edit(package, module, old, new):
    path = package.joinpath(*module.split(".")).with_suffix(".py")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


EXECUTOR = "_torch.pyexecutor.py_executor"


OURS = [hook for hook in HOOKS if hook.module.startswith("tensorrt_llm.")]
