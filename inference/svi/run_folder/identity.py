"""What must be the same for a resumed run to be the run it resumes: data, precision, device, threads.

Settings (stages, seed, the caller's configuration) are compared field by field in `runs`; here is what no setting
says. Data are compared by a hash of their content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import RunMismatchError
from phlogiston.inference.svi.parallel import Processes

MOST_BYTES = 2 << 30
MOST_ROWS = 1024
_CHUNK = 1 << 24  # bytes hashed at once


def data_hash(rows: Any) -> dict[str, Any]:
    """Return what tells data apart: a SHA-256 over names, types, shapes and content of their rows.

    Rows that keep their `tensors` are hashed whole, up to 2 GiB; of larger ones, and of rows that are made when they
    are read (1024 of those), evenly spaced ones. `read` says how many of the `rows` that were.

    Args:
        rows: what the engine trains on: `len(rows)`, `rows[LongTensor] -> dict of tensors`; or `rows.digest()`, a hash
            of their own (None where they have none).
    """
    count = len(rows)
    own = rows.digest() if hasattr(rows, "digest") else None  # rows that know best how to tell themselves from others
    if own is not None:
        return {"sha256": own, "rows": count, "read": count}
    tensors = getattr(rows, "tensors", None)
    if isinstance(tensors, Mapping) and all(isinstance(t, Tensor) and len(t) == count for t in tensors.values()):
        width = sum(t[:1].numel() * t.element_size() for t in tensors.values())
        read = min(count, max(1, MOST_BYTES // max(1, width)))
        parts = {name: _hash_tensor(tensors[name], read) for name in sorted(tensors)}
    else:
        read = min(count, MOST_ROWS)
        few = min(read, 32)
        if _hash_made(rows, count, few) != _hash_made(rows, count, few):  # they differ at every reading: no telling
            read = 0
        parts = _hash_made(rows, count, read) if read else {}
    whole = hashlib.sha256(repr([count, sorted(parts.items())]).encode())
    return {"sha256": whole.hexdigest(), "rows": count, "read": read}


def _hash_tensor(tensor: Tensor, read: int) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    block = max(1, _CHUNK // max(1, tensor[:1].numel() * tensor.element_size()))
    for start, stop in _blocks(len(tensor), read, block):
        _update(digest, tensor[start:stop])
    return digest.hexdigest()


def _blocks(count: int, read: int, block: int) -> Iterator[tuple[int, int]]:
    """Cover `read` of `count` rows in blocks: all of them, or evenly spaced ones with the first and the last."""
    if read >= count:
        yield from ((start, min(count, start + block)) for start in range(0, count, block))
        return
    block = min(block, read)
    many = max(2, read // block)
    for i in range(many):
        start = i * (count - block) // (many - 1)
        yield start, start + block


def _hash_made(rows: Any, count: int, read: int) -> dict[str, str]:
    """Hash rows that are made when they are read, with the noise of one seed."""
    digests: dict[str, Any] = {}
    index = torch.arange(count) if read == count else torch.linspace(0, count - 1, read, dtype=torch.float64).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in index.split(32):
            for name, value in rows[part].items():
                digest = digests.setdefault(name, hashlib.sha256())
                digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
                _update(digest, value)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _update(digest: Any, value: Tensor) -> None:
    flat = value.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)


def identity(processes: Processes, data: Any, valid: Any) -> dict[str, Any]:
    """Describe how and on what a run computes: JSON-able, kept in config.json."""
    return {
        "precision": processes.precision,
        "device": "cpu" if processes.device is None else processes.device.type,
        "threads": torch.get_num_threads(),
        "processes": processes.size,
        "data": data_hash(data),
        "valid": None if valid is None else data_hash(valid),
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], finished: bool) -> list[str]:
    """Say in what a run differs from the one in its folder; what the folder does not tell is not compared.

    Args:
        old: identity of the run in the folder; empty, or in part, if an earlier version wrote it.
        new: identity of the present call.
        finished: True if there is nothing left to compute: then only data and precision count.
    """
    told = []
    for name in ("data", "valid"):
        before, now = old.get(name), new[name]
        if name in old and isinstance(before, Mapping | None) and before != now:
            title = "the data" if name == "data" else "the validation rows"
            told.append(f"{title} ({_described(before)} there, {_described(now)} here)")
    told += _differ(old, new, "precision")
    if finished:
        return told
    told += _differ(old, new, "device")
    if old.get("processes", 1) == new["processes"]:  # with another number of processes go other threads, and a notice
        told += [f"{text[:-1]}; threads={old['threads']} sets them)" for text in _differ(old, new, "threads")]
    return told


def check_precision(named: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of parameters in another precision; a run of an earlier version tells it no other way.

    Raises:
        RunMismatchError: naming the first such parameter.
    """
    for name, value in named.items():
        if name in saved and value.is_floating_point() and saved[name].dtype != value.dtype:
            there, here = (str(dtype).removeprefix("torch.") for dtype in (saved[name].dtype, value.dtype))
            raise RunMismatchError(
                f"the checkpoint was computed in another precision: {name} is {there} there, {here} here. Repeat it "
                "as it was, or go on all the same with resume='force' (--force-resume)."
            )


def _differ(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> list[str]:
    if type(old.get(name)) is not type(new[name]) or old[name] == new[name]:
        return []
    return [f"{name} ({old[name]} there, {new[name]} here)"]


def _described(data: Mapping[str, Any] | None) -> str:
    return "none" if data is None else f"{data.get('rows')} rows, SHA-256 {str(data.get('sha256'))[:12]}"
