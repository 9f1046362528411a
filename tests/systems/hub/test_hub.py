"""Systems on a hub: published, fetched once per commit, checked whenever loaded; nothing else is read."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import phlogiston as ph
from phlogiston.cli.main import main
from phlogiston.errors import CheckpointError, ConfigError, RunError
from phlogiston.systems.hub.address import FILES, Address, is_address

pytest.importorskip("huggingface_hub", reason="a hub needs the extra phlogiston[hub]")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own upload

REPO = "ada/roll"
"""What every test publishes or loads."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Any) -> Iterator[Any]:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own, which no stand-in speaks
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / "cache"))
    with script("tests/systems/hub/stand_in.py").serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.fixture(scope="module")
def data() -> ph.datasets.Dataset:
    return ph.datasets.load("swissroll", n=200)


@pytest.fixture(scope="module")
def system(data: ph.datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> ph.DRMM:
    run = tmp_path_factory.mktemp("runs") / "roll"
    found = ph.DRMM(num_layers=1).fit(data, out=run, steps=5, seed=3)
    found.evaluate(data, metrics=["log_likelihood"])
    return found


@pytest.fixture
def published(hub: Any, system: ph.DRMM) -> Any:
    system.push_to_hub(REPO)
    hub.asked.clear()
    return hub


def parameters(system: ph.DRMM) -> dict[str, torch.Tensor]:
    return dict(system.model.state_dict())


def altered(hub: Any, name: str, content: bytes) -> None:
    hub.commit(REPO, {name: content})


def test_a_system_comes_back_bit_for_bit_under_its_commit(hub: Any, system: ph.DRMM) -> None:
    address = system.push_to_hub(REPO, private=True)
    commit, files = hub.repos[REPO][-1]
    assert address == f"hf://{REPO}@{commit}"
    assert REPO in hub.private
    assert sorted(files) == sorted([*FILES, "README.md", "checksums.json"])
    for run in (f"hf://{REPO}", f"hf://{REPO}@main", address, Path(address)):
        again = ph.load(run)
        assert all(torch.equal(value, parameters(system)[name]) for name, value in parameters(again).items())
    assert ph.DRMM.load(address).scored == system.scored


def test_a_commit_is_fetched_once_and_needs_no_hub_afterwards(
    published: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = published.repos[REPO][-1][0]
    ph.load(f"hf://{REPO}@{commit}")
    assert sorted(published.fetched()) == sorted([*FILES, "checksums.json"])
    folder = tmp_path / "cache" / "hub" / REPO / commit
    assert json.loads((folder / "pinned.json").read_text())["address"] == f"hf://{REPO}@{commit}"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "checksums.json", "pinned.json"])
    assert [path.name for path in folder.parent.iterdir()] == [commit]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ph.load(f"hf://{REPO}@{commit}")
    with pytest.raises(RunError, match=f"cannot be reached.*loaded without a hub: hf://{REPO}@{commit}"):
        ph.load(f"hf://{REPO}")


def test_a_new_revision_is_noticed_and_an_old_one_stays(published: Any, data: ph.datasets.Dataset) -> None:
    old = published.repos[REPO][-1][0]
    newer = ph.DRMM(num_layers=1).fit(data, steps=1, seed=4)
    newer.evaluate(data, metrics=["log_likelihood"])
    newer.fit(data, steps=1, seed=5)  # figures of the earlier fit are not published with this one
    new = newer.push_to_hub(REPO)
    assert new != f"hf://{REPO}@{old}"
    found, earlier = parameters(ph.load(f"hf://{REPO}")), parameters(ph.load(f"hf://{REPO}@{old}"))
    assert all(torch.equal(value, parameters(newer)[name]) for name, value in found.items())
    assert not all(torch.equal(value, earlier[name]) for name, value in found.items())
    assert ph.load(f"hf://{REPO}").scored is None  # the figures that still lie there are of the old one


def test_nothing_but_our_files_is_fetched(published: Any) -> None:
    others = dict.fromkeys(("model.pkl", "pytorch_model.bin", "code.py"), b"cos\nsystem\n(S'false'\ntR.")
    published.commit(REPO, {**others, "checkpoints/step-00000099.safetensors": b"x", "README.md": b"edited"})
    ph.load(f"hf://{REPO}")
    assert sorted(published.fetched()) == sorted([*FILES, "checksums.json"])


def test_pickles_alone_are_refused(hub: Any) -> None:
    hub.commit(REPO, {"pytorch_model.bin": b"x", "config.json": b"{}"})
    with pytest.raises(RunError, match=r"holds no parameters\.safetensors"):
        ph.load(f"hf://{REPO}")
    assert hub.fetched() == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_changed_on_the_hub_is_refused_by_name(published: Any, name: str, tmp_path: Path) -> None:
    content = published.repos[REPO][-1][1][name]
    altered(published, name, content.replace(b"0", b"1", 1))
    with pytest.raises(CheckpointError, match=f"{name} is altered"):
        ph.load(f"hf://{REPO}")
    assert list((tmp_path / "cache" / "hub" / REPO).iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_changed_in_the_cache_is_refused_by_name(published: Any, name: str, tmp_path: Path) -> None:
    commit = published.repos[REPO][-1][0]
    ph.load(f"hf://{REPO}")
    path = tmp_path / "cache" / "hub" / REPO / commit / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=f"{name} is altered.*Remove .*{commit}"):
        ph.load(f"hf://{REPO}")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        ph.load(f"hf://{REPO}@{commit}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"checksums\.json gives no size and SHA-256 of"),
        ({"../../evil": {"bytes": 1, "sha256": "0" * 64}}, r"checksums\.json gives no size and SHA-256 of"),
        ([], r"checksums\.json gives no size and SHA-256 of"),
        ("deep", r"checksums\.json"),
    ],
)
def test_checksums_that_no_publishing_writes_are_refused(published: Any, files: object, message: str) -> None:
    text = b"[" * 100_000 if files == "deep" else json.dumps({"files": files}).encode()
    altered(published, "checksums.json", text)
    with pytest.raises(CheckpointError, match=message):
        ph.load(f"hf://{REPO}")


def test_files_too_large_are_not_fetched(published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHLOGISTON_LIMITS", "document=2000")
    text = b'{"x": "' + b" " * 2000 + b'"}'
    listed = json.loads(published.repos[REPO][-1][1]["checksums.json"])
    listed["files"]["config.json"] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    published.commit(REPO, {"config.json": text, "checksums.json": json.dumps(listed).encode()})
    with pytest.raises(CheckpointError, match=r"config\.json, bytes: 2,009; up to 2,000"):
        ph.load(f"hf://{REPO}")
    assert published.fetched() == ["checksums.json"]


@pytest.mark.parametrize(
    "text",
    ["hf://roll", "hf://ada/../etc", "hf://../x", "hf://ada/roll@", "hf://ada/roll@-x", "hf://a/b/c", "hf://a/b c"],
)
def test_what_is_no_address_is_refused(text: str, hub: Any) -> None:
    with pytest.raises(ConfigError, match="no address of a system"):
        ph.load(text)
    assert hub.asked == []


def test_addresses_are_read_as_typed_and_as_paths() -> None:
    assert str(Address.parse("hf:/ada/roll@v1")) == "hf://ada/roll@v1"
    assert is_address(Path("hf://ada/roll"))
    assert not is_address("runs/hf")
    assert not is_address(Path("runs/1"))


def test_what_the_hub_lacks_is_said(hub: Any, published: Any) -> None:
    with pytest.raises(RunError, match="no such repository"):
        ph.load("hf://ada/nothing")
    with pytest.raises(RunError, match="no such revision"):
        ph.load(f"hf://{REPO}@v9")


def test_without_the_extra_it_is_named(system: ph.DRMM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"huggingface_hub, which is an extra.*phlogiston\[hub\]"):
        ph.load(f"hf://{REPO}")
    with pytest.raises(ConfigError, match=r"phlogiston\[hub\]"):
        system.push_to_hub(REPO)


def test_publishing_says_why_it_cannot(hub: Any, system: ph.DRMM, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no address"):
        system.push_to_hub("roll")
    with pytest.raises(ConfigError, match="leave out the @"):
        system.push_to_hub("ada/roll@v1")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None, raising=False)
    with pytest.raises(RunError, match="cannot be published: the hub refused"):
        system.push_to_hub(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="cannot be published: the hub cannot be reached"):
        system.push_to_hub(REPO)


def test_the_card_tells_data_recipe_figures_and_limits(published: Any, system: ph.DRMM) -> None:
    card = published.repos[REPO][-1][1]["README.md"].decode()
    assert system.scored is not None
    assert card.startswith("---\nlibrary_name: phlogiston\n")
    assert f'ph.load("hf://{REPO}")' in card
    assert "Registered as `swissroll`" in card
    assert "phlogiston train drmm --data swissroll --data-set n=200" in card
    assert "--seed 3" in card
    assert system.scored["log_likelihood"].text() in card
    assert "extrapolation" in card


def test_of_data_in_a_file_only_its_name_is_published(hub: Any, tmp_path: Path) -> None:
    table = tmp_path / "secret-folder" / "rows.csv"
    table.parent.mkdir()
    table.write_text("a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(40)))
    run = tmp_path / "secret-folder" / "run"
    ph.DRMM(num_layers=1).fit(ph.datasets.load(table), out=run, steps=1).push_to_hub(REPO)
    files = hub.repos[REPO][-1][1]
    assert not [name for name, content in files.items() if b"secret-folder" in content]
    assert b"rows.csv" in files["README.md"]
    assert json.loads(files["config.json"])["data"] == {"name": "rows.csv", "options": {}}
    assert b"None: the system was not evaluated" in files["README.md"]


def run_command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as found:
        main(arguments)
    return int(found.value.code or 0)


def test_verbs_take_addresses(published: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address, out = f"hf://{REPO}", str(tmp_path / "points.csv")
    assert run_command("query", address, "x0 >= 0", "-n", "20", "--json") == 0
    assert json.loads(capsys.readouterr().out)
    assert run_command("sample", address, "-n", "5", "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == address
    assert run_command("summary", address, "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == address
    assert run_command("impute", address, out, "--out", str(tmp_path / "full.csv"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == address
    assert run_command("evaluate", address, "--metrics", "log_likelihood") == 2
    assert "with --out" in capsys.readouterr().err
    there = ("--metrics", "log_likelihood", "--out", str(tmp_path / "report"))
    assert run_command("evaluate", address, *there, "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == address
    ph.load(address)  # nothing was written beside what was published
