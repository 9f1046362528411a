"""Several processes as one: gradients of shards are summed, decisions taken together.

Every process computes the gradient of the loss summed over its own rows; `processes.exchange` adds them up, with a few
numbers of the step (loss, rows, failures, flags to stop). What comes out is the same on every process, so every
decision made from it is too. With one process nothing here runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phlogiston import errors
from phlogiston.errors import ConfigError, PhlogistonError, RunError
from phlogiston.inference.svi.processes.exchange import all_reduce, peers
from phlogiston.inference.svi.processes.launchers import check_nodes, checked, environment_of, launched, start_others

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
"""What the engine can compute in: float32, float64, or networks in bfloat16 with everything else in float32."""


def make_fabric(
    devices: int | str = 1,
    nodes: int = 1,
    precision: str = "32-true",
    accelerator: str = "auto",
) -> Any:
    """Start the processes of a run and return the Lightning Fabric that manages them.

    Where a launcher has started this process (torchrun, srun, Ray), or the caller has made a process group, the numbers
    of that count: `devices` may be left out, and `nodes` is not read.

    Args:
        devices: processes (CPU) or accelerators per machine; `"auto"` takes all there are.
        nodes: number of machines; start one launcher per machine (torchrun, srun) if there is more than one.
        precision: one of `PRECISIONS`.
        accelerator: `"cpu"`, `"cuda"`, or `"auto"`.

    Returns:
        A launched `lightning_fabric.Fabric`.

    Raises:
        ConfigError: for a precision the engine does not offer, a device this machine does not have, several machines
            without a launcher, or another number of devices than the launcher's.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision={precision!r}: choose one of {', '.join(PRECISIONS)} (16-mixed needs loss scaling, which the "
            "densities of these models do not survive; bf16-mixed does not)."
        )
    check_nodes(nodes, devices)
    launch = launched()
    if launch is not None:
        devices, nodes = checked(launch, devices).per_node, launch.nodes
    from lightning_fabric import Fabric  # takes seconds to import: only runs that use it pay

    many = launch is not None or nodes > 1 or devices not in (1, "1")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=precision,  # type: ignore[arg-type]
            strategy="ddp" if many else "auto",  # for its process group; the engine wraps the loss of each stage
            plugins=[] if launch is None else [environment_of(launch)],
        )
        if launch is None and fabric.world_size > 1:
            start_others(fabric.world_size // nodes, nodes)
        if many and fabric.device.type == "cpu" and torch.get_num_threads() > 1:
            cores = torch.get_num_threads()
            torch.set_num_threads(max(1, cores // (fabric.world_size // nodes)))
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"devices={devices}, nodes={nodes}, accelerator={accelerator!r}: {error}") from error
    return fabric


class Processes:
    """What the engine needs to know of the processes it runs on; without Fabric, one process on the CPU.

    Attributes:
        rank: number of this process; rank 0 writes.
        size: number of processes.
        device: where model and batches live, or None to leave everything where it is.
        dtype: floating-point type to convert model and batches to, or None.
    """

    def __init__(self, fabric: Any = None) -> None:
        self.fabric = fabric
        self.rank = int(fabric.global_rank) if fabric is not None else 0
        self.size = int(fabric.world_size) if fabric is not None else 1
        self.device: torch.device | None = fabric.device if fabric is not None else None
        precision = getattr(getattr(fabric, "_precision", None), "precision", "32-true")
        if precision not in PRECISIONS:
            raise ConfigError(f"fabric: precision {precision!r}; the engine offers {', '.join(PRECISIONS)}.")
        self.precision = precision
        self.dtype = torch.float64 if precision == "64-true" else None
        if self.size > 1 and not torch.distributed.is_initialized():
            raise ConfigError("fabric: call fabric.launch() before fit (make_fabric does).")

    @property
    def leader(self) -> bool:
        """True on the one process that writes files and shows progress."""
        return self.rank == 0

    def place(self, *modules: nn.Module) -> None:
        """Move modules to the run's device and floating-point type, in training mode."""
        for module in modules:
            if self.device is not None or self.dtype is not None:
                module.to(device=self.device, dtype=self.dtype)
            module.train()

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            with peers():
                self.fabric.barrier()

    def together(self, action: Callable[[], Any]) -> Any:
        """Run `action` on rank 0 and return its (JSON-able) result everywhere; its error is raised everywhere."""
        if self.size == 1:
            return action()
        outcome: dict[str, Any] = {}
        failure: PhlogistonError | None = None
        if self.leader:
            try:
                outcome = {"result": action()}
            except PhlogistonError as error:
                failure, outcome = error, {"error": str(error), "kind": type(error).__name__}
            except OSError as error:
                failure, outcome = RunError(str(error)), {"error": str(error)}
        with peers():
            text = self.fabric.broadcast(json.dumps(outcome), src=0)
        if failure is not None:
            raise failure
        outcome = json.loads(text)
        if "error" in outcome:
            raise getattr(errors, outcome.get("kind", ""), RunError)(outcome["error"])
        return outcome["result"]

    def share(self, tensors: dict[str, Tensor] | None, state: dict[str, Any] | None) -> tuple[dict[str, Tensor], Any]:
        """Hand what rank 0 holds (CPU tensors by name, and JSON) to every process."""
        if self.size == 1:
            return tensors or {}, state
        shapes = {k: [str(v.dtype).removeprefix("torch."), list(v.shape)] for k, v in (tensors or {}).items()}
        with peers():
            shapes, state = json.loads(self.fabric.broadcast(json.dumps([shapes, state]), src=0))
        out: dict[str, Tensor] = {}
        for name, (dtype, shape) in shapes.items():
            value = tensors[name] if self.leader and tensors else torch.empty(shape, dtype=getattr(torch, dtype))
            raw = value.contiguous().reshape(-1).view(torch.uint8).to(self.device)
            if raw.numel():
                with peers():
                    torch.distributed.broadcast(raw, src=0)
            out[name] = raw.cpu().view(getattr(torch, dtype)).reshape(shape)
        return out, state

    def align(self, modules: Sequence[nn.Module]) -> None:
        """Give every process the parameters and buffers of rank 0."""
        if self.size == 1:
            return
        with torch.no_grad(), peers():
            for module in modules:
                for value in module.state_dict(keep_vars=True).values():
                    if isinstance(value, Tensor) and value.numel():
                        flat = value.detach().contiguous()
                        torch.distributed.broadcast(flat, src=0)
                        value.data.copy_(flat)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of a few numbers over all processes."""
        if self.size == 1:
            return list(values)
        buffer = torch.tensor(values, dtype=torch.float64, device=self.device)
        all_reduce(buffer)
        return buffer.tolist()
