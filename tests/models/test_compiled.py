"""torch.compile gives the same numbers, and where it cannot be had training goes on after one warning."""

from __future__ import annotations

import copy
import pickle
import shutil
from typing import Any

import pytest
import torch

from phlogiston.errors import TrainingWarning
from phlogiston.models.compiled import Compiled
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.system import DRMM as System


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_a_compiled_search_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    model = DRMM(features=3, num_layers=2, num_components=4, frame="diag")
    x = torch.randn(32, 3)
    found = []
    for on in (False, True):
        model.zero_grad()
        value = Compiled(on, "the search")(model.find, x, width=3).nested
        value.sum().backward()
        found.append([value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 5
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-6 * float(plain.abs().max()))


def test_without_a_compiler_training_goes_on_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **options: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("No working C++ compiler found\nmore lines")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    rows = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    options = {"num_layers": 2, "num_components": 3, "steps": 4}
    with pytest.warns(TrainingWarning, match="needs a C\\+\\+ compiler.*No working C\\+\\+ compiler found") as said:
        slow = System(options, compile=True).fit(rows, seed=0, progress="off")
    assert len(said) == 1
    plain = System(options).fit(rows, seed=0, progress="off")
    assert torch.equal(slow.log_prob(rows).value, plain.log_prob(rows).value)


def test_errors_of_the_function_itself_are_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)

    def fails() -> None:
        raise ZeroDivisionError("mine")

    call = Compiled(True, "it")
    with pytest.raises(ZeroDivisionError, match="mine"):
        call(fails)
    assert call.enabled


def test_copies_and_pickles_leave_the_compiled_code_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *args: function(*args))
    call = Compiled(True, "it")
    assert call(abs, -2) == 2
    for twin in (copy.deepcopy(call), pickle.loads(pickle.dumps(call))):
        assert (twin.enabled, twin.what, twin._compiled) == (True, "it", None)
