"""Saved parameters for modules that have none yet: lazy `torch.nn` modules and guides that make theirs at first call.

A fresh AutoGuide learns the sites of its model when it is first called. Until then the saved values wait in it as
parameters of the right names (they count in `parameters()`, move with `.to()`, are saved and copied); at the first call
the guide sets itself up as usual and then takes them over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from phlogiston.errors import CheckpointError


def make_room(modules: Mapping[str, nn.Module], saved: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Give modules that await their first call the parameters and buffers that were saved.

    Args:
        modules: model and guide by prefix.
        saved: saved tensors by name, prefix included; those that fit nothing here are left alone.
        state: the checkpoint's JSON part: `"buffers"` names the tensors that are none to train; `"latents"` the model's
            latent sites in training. The first call may come without some data: sites that are not observed in it, but
            were in training, are none of the guide's business.
    """
    waiting: dict[str, list[str]] = {}
    guides = {f"{prefix}.{name}".rstrip("."): m for prefix, top in modules.items() for name, m in _unprepared(top)}
    known = {f"{prefix}.{name}" for prefix, module in modules.items() for name in module.state_dict()}
    buffers = set(state.get("buffers", ()))
    for name, value in saved.items():
        prefix, _, rest = name.partition(".")
        if name in known:
            _materialise(modules[prefix], rest, value)
            continue
        owner = max((g for g in guides if name.startswith(f"{g}.")), key=len, default=None)
        if owner is not None:
            waiting.setdefault(owner, []).append(name.removeprefix(f"{owner}."))
            copy = value.clone()
            _place(guides[owner], waiting[owner][-1], copy if name in buffers else nn.Parameter(copy))
    for owner, guide in guides.items():
        if any(other == owner or other.startswith(f"{owner}.") for other in waiting):
            guide.register_forward_pre_hook(_TakeOver(waiting.get(owner, []), state.get("latents")), with_kwargs=True)


@torch.no_grad()
def call_once(model: nn.Module, guide: nn.Module | None, batch: Mapping[str, Any]) -> None:
    """Run a pair on some rows, so that modules make what they make at their first call; random state is put back."""
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False), poutine.block():
        if guide is not None:
            guide(**batch)
        model(**batch)


def _unprepared(top: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Find Pyro's automatic guides (AutoGuide, EasyGuide) that have not been called yet."""
    for name, module in top.named_modules():
        if getattr(module, "prototype_trace", module) is None and hasattr(module, "_setup_prototype"):
            yield name, module


def _find(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Return the table of parameters or buffers that holds a tensor, and its name there."""
    *path, leaf = name.split(".")
    for part in path:
        module = module._modules[part]  # type: ignore[assignment]
    return (module._parameters if leaf in module._parameters else module._buffers), leaf


def _materialise(module: nn.Module, name: str, value: Tensor) -> None:
    table, leaf = _find(module, name)
    if is_lazy(table[leaf]):
        table[leaf].materialize(value.shape, dtype=value.dtype)


def _place(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a parameter or buffer at a path, with empty modules on the way where there are none."""
    *path, leaf = name.split(".")
    for part in path:
        # not by setattr, which would go by what the guide itself makes of the name
        module = module._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
    table: dict[str, Any] = module._parameters if isinstance(value, nn.Parameter) else module._buffers
    table[leaf] = value


class _TakeOver:
    """A hook before a guide's first call: let it set itself up, then put the waiting tensors where its own are.

    Args:
        names: of the waiting tensors.
        latents: see `make_room`; None for all sites.
    """

    def __init__(self, names: list[str], latents: Collection[str] | None) -> None:
        self.names = names
        self.latents = latents

    def __call__(self, guide: nn.Module, args: Any, kwargs: Any) -> None:
        for key in [key for key, hook in guide._forward_pre_hooks.items() if hook is self]:
            del guide._forward_pre_hooks[key], guide._forward_pre_hooks_with_kwargs[key]
        places = {name: _find(guide, name) for name in self.names}
        waiting = {name: table[leaf] for name, (table, leaf) in places.items()}
        self._clear(guide)
        own = vars(guide)
        models: dict[str, Any] = {name: own[name] for name in ("_model", "_original_model") if name in own}
        if self.latents is not None:
            own.update({name: (poutine.block(m[0], hide_fn=self._hide),) for name, m in models.items()})
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
                guide.forward(*args, **kwargs)
            self._insert(guide, waiting)
        except BaseException:  # as before the call, so that the next one does not begin with untrained parameters
            self._clear(guide)
            own["prototype_trace"] = None
            for name, value in waiting.items():
                _place(guide, name, value)
            guide.register_forward_pre_hook(self, with_kwargs=True)
            raise
        finally:
            own.update(models)

    def _hide(self, site: Any) -> bool:
        return site["type"] == "sample" and not site["is_observed"] and site["name"] not in (self.latents or ())

    def _clear(self, guide: nn.Module) -> None:
        for head in {name.split(".")[0] for name in self.names}:
            tables: list[dict[str, Any]] = [guide._modules, guide._parameters, guide._buffers]
            for table in tables:
                table.pop(head, None)

    def _insert(self, guide: nn.Module, waiting: Mapping[str, Tensor]) -> None:
        made: dict[str, Tensor] = {}
        for name, value in guide.state_dict(keep_vars=True).items():
            if not any(value is other for other in made.values()):  # as saved: under the first name
                made[name] = value
        heads = {name.split(".")[0] for name in waiting}
        wrong = [n for n, value in waiting.items() if n not in made or made[n].shape != value.shape]
        wrong += [n for n in made if n not in waiting and n.split(".")[0] in heads]
        if wrong:
            raise CheckpointError(
                f"the parameters loaded into this {type(guide).__name__} do not fit its model and the batch of its "
                f"first call: {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}. Call it on rows as in training."
            )
        instead: dict[int, Any] = {id(made[name]): value for name, value in waiting.items()}
        for module in guide.modules():
            tables: list[dict[str, Any]] = [module._parameters, module._buffers]
            for table in tables:
                table.update({name: instead[id(value)] for name, value in table.items() if id(value) in instead})
