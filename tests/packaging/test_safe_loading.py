"""Shipped code never executes what it loads, never keeps state in Pyro's global store, never asserts on user input."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [
    "networks",
    "distributions",
    "datasets",
    "models",
    "guides",
    "inference",
    "evaluate",
    "systems",
    "cli",
    "phlogiston",
]

CODE_LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "torch.load": "executes code unless told not to; checkpoints are safetensors and JSON",
    "torch.save": "writes pickles; checkpoints are safetensors and JSON",
    "pyro.param": "global parameter store: a second model of the same name silently never trains",
    "pyro.module": "global parameter store: a second model of the same name silently never trains",
    "pyro.get_param_store": "global parameter store",
    "pyro.clear_param_store": "global parameter store",
    "eval": "executes text",
    "exec": "executes text",
}


# what may touch the store, and why: whatever passes through the engine must stay out of the caller's store
GUARDS = {
    "distributions/pyro_modules.py": {"pyro.get_param_store"},  # takes modules out of it
    "inference/svi/isolation.py": {"pyro.get_param_store"},  # trains in an empty one, puts the caller's back
    "inference/svi/objective_state.py": {"pyro.get_param_store"},  # Pyro's own averages live there during a loss
    "inference/svi/pair/sites.py": {"pyro.get_param_store"},  # refuses programs that write to it
    "inference/svi/step.py": {"pyro.get_param_store"},  # the same, at later steps
    "phlogiston/testing.py": {"imports pickle"},  # checks that a system survives pickling, on bytes it has just made
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def faults(source: str) -> list[str]:
    """Return the dangerous constructs of a module, one line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                bad = [alias.name for alias in names if alias.name.split(".")[0] in CODE_LOADERS]
                found += [f"{node.lineno}: imports {name}" for name in bad]
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in CODE_LOADERS:
                    found.append(f"{node.lineno}: imports from {module}")
                bad = [f"{module}.{alias.name}" for alias in names if f"{module}.{alias.name}" in FORBIDDEN_CALLS]
                found += [f"{node.lineno}: imports {name}" for name in bad]
            case ast.Call(func=func, keywords=keywords):
                name = dotted(func)
                if name == "torch.load" and any(k.arg == "weights_only" and is_true(k.value) for k in node.keywords):
                    continue  # a foreign file of tensors, read by the loader that executes nothing
                if name in FORBIDDEN_CALLS:
                    found.append(f"{node.lineno}: calls {name}: {FORBIDDEN_CALLS[name]}")
                if any(
                    k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                    for k in keywords
                ):
                    found.append(f"{node.lineno}: allow_pickle must stay False")
    return found


def shipped() -> list[Path]:
    return [p for package in PACKAGES for p in sorted((ROOT / package).glob("**/*.py")) if "__pycache__" not in p.parts]


def test_shipped_code_neither_loads_code_nor_uses_the_global_store() -> None:
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in shipped()}
    found = [
        f"{name}:{fault}"
        for name, source in sources.items()
        for fault in faults(source)
        if not any(allowed in fault for allowed in GUARDS.get(name, ()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x', weights_only=only)",
        "from torch import load",
        "import pyro\npyro.param('p')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
    ],
)
def test_the_check_sees_each_danger(source: str) -> None:
    assert len(faults(source)) == 1


def test_the_check_lets_safe_code_pass() -> None:
    assert (
        faults("import numpy as np\nnet.eval()\nnp.load('x.npz', allow_pickle=False)\nsafetensors.torch.load_file('x')")
        == []
    )
