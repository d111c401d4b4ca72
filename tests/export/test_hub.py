"""Adapters up to a hub and down again: with the real client, against a hub of ours on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.__main__ import main
from adaptive_jax.runs.hub import download_adapter
from tests.export.cases import case
from tests.runs.fake_hub import TOKEN, FakeHub

EXPORTED = ["README.md", "adapter.safetensors", "adapter_config.json", "custom_generate/adapter.py"]
EXPORTED += ["custom_generate/generate.py"]


def export(monkeypatch: pytest.MonkeyPatch, *flags: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["adaptive_jax", "export", "--to", "transformers", *map(str, flags)])
    return main()


def test_up_and_down_again(lm: aj.LM, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = case("centred")
    row = {"metric": "pass@1", "cot": "none", "budget": 48, "value": 0.59, "ci95": 0.03, "n": 1000}
    aj.save_adapter(tmp_path / "mine", adapter, lm, trained={"dataset": "my questions"}, results=[row], license="mit")
    for _ in range(2):  # the second is one more commit
        assert export(monkeypatch, tmp_path / "mine", "--out", tmp_path / "out", "--push-to-hub", "me/mine") == 0
    assert len(hub.repositories["me/mine"]) == 3
    assert sorted({*hub.files("me/mine")} - {".gitattributes"}) == EXPORTED
    card = hub.files("me/mine")["README.md"].decode()
    assert 'custom_generate="me/mine"' in card
    assert "license: mit" in card
    assert "| pass@1 | none | 48 | 59.0% | ± 3.0 | 1000 | 1 |" in card
    assert "On my questions, by adaptive_jax." in card
    found = aj.load_adapter("me/mine", lm=lm)
    np.testing.assert_array_equal(found.params["first"]["kernel"][...], adapter.params["first"]["kernel"][...])
    assert not any("README" in request for request in hub.requests if "/resolve/" in request)  # its two files alone
    assert export(monkeypatch, "me/mine", "--out", tmp_path / "again") == 0  # an export of an export says the same
    for file in ("adapter.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == hub.files("me/mine")[file]


def test_the_first_commit_is_had_by_revision(lm: aj.LM, hub: FakeHub, tmp_path: Path) -> None:
    commits = []
    for kind in ("centred", "hidden"):
        aj.save_adapter(tmp_path / kind, case(kind), lm)
        commits.append({file.name: file.read_bytes() for file in (tmp_path / kind).iterdir()})
    hub.repositories["a/b"] = commits
    first = hub.commit_ids("a/b")[0]
    assert aj.load_adapter("a/b").inputs == "hidden"
    assert aj.load_adapter("a/b", revision=first).inputs == "hidden+budget"
    with pytest.raises(FileNotFoundError, match="'a/b' at revision 'v9' is not on the hub: the repository has no such branch"):
        aj.load_adapter("a/b", revision="v9")


def test_without_a_connection_the_copy_serves(lm: aj.LM, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aj.save_adapter(tmp_path / "a", case("centred"), lm)
    hub.repositories["a/b"] = [{file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}]
    aj.load_adapter("a/b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert aj.load_adapter("a/b", lm=lm).hidden_size == 96
    assert len(hub.requests) == asked
    with pytest.raises(FileNotFoundError, match=r"no adapter 'a/c': .* no copy from the hub.*unset HF_HUB_OFFLINE, or give"):
        aj.load_adapter("a/c")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")  # where nobody listens
    assert aj.load_adapter("a/b").hidden_size == 96
    with pytest.raises(FileNotFoundError, match=r"no adapter 'a/c': .* the hub cannot be asked \(.*\): connect"):
        aj.load_adapter("a/c")


def test_what_is_no_adapter_on_the_hub_is_told(lm: aj.LM, hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no adapter 'a/b': it is not a local directory, and the hub has no such"):
        aj.load_adapter("a/b")
    hub.repositories["a/model"] = [{"config.json": b"{}", "model.safetensors": b""}]
    with pytest.raises(FileNotFoundError, match=r"the adapter 'a/model' is none: the repository has no adapter_config.json"):
        aj.load_adapter("a/model")
    hub.repositories["a/lora"] = [{"adapter_config.json": b'{"peft_type": "LORA"}', "adapter.safetensors": b""}]
    with pytest.raises(FileNotFoundError, match="'a/lora' is one of PEFT, which changes a model's weights"):
        aj.load_adapter("a/lora")
    hub.repositories["a/gated"], hub.gated = [{}], {"a/gated"}
    with pytest.raises(FileNotFoundError, match="'a/gated' is gated: ask for access on its page"):
        aj.load_adapter("a/gated")
    aj.save_adapter(tmp_path / "a", case("centred"), lm)
    files = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    hub.repositories["a/cut"] = [files | {"adapter.safetensors": files["adapter.safetensors"][:-1]}]
    with pytest.raises(ValueError, match=r"adapter.safetensors has \d+ bytes instead of"):
        aj.load_adapter("a/cut")


def test_what_cannot_be_pushed_is_told(
    lm: aj.LM, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aj.save_adapter(tmp_path / "mine", case("centred"), lm)

    def told(*flags: str) -> str:
        assert export(monkeypatch, tmp_path / "mine", "--out", tmp_path / "out", *flags) == 2
        return capsys.readouterr().err

    assert "'mine' is no name of a repository: give one such as 'user/my-adapter'" in told("--push-to-hub", "mine")
    assert "--private: give --push-to-hub USER/NAME, too" in told("--private")
    assert "'MIT license' is no identifier of a license" in told("--license", "MIT license")
    assert not (tmp_path / "out").exists()
    hub.repositories["me/model"] = [{"README.md": b"", "model.safetensors": b""}]
    assert "me/model holds model.safetensors, so it is no export: give --push-to-hub" in told("--push-to-hub", "me/model")
    assert hub.repositories["me/model"] == [{"README.md": b"", "model.safetensors": b""}]
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    error = told("--push-to-hub", "me/mine")
    assert "the hub did not take me/mine (" in error
    assert "log in with `hf auth login`, or set HF_TOKEN to a token that may write there" in error
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert "the hub cannot be reached (" in told("--push-to-hub", "me/mine")
    assert "me/mine" not in hub.repositories
    assert (tmp_path / "out" / "README.md").is_file()  # to be pushed later


def test_as_a_program_of_its_own(lm: aj.LM, hub: FakeHub, tmp_path: Path) -> None:
    """By the environment variables alone, as users have them."""
    aj.save_adapter(tmp_path / "mine", case("both"), lm)
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    flags = ["export", str(tmp_path / "mine"), "--to", "transformers", "--out", str(tmp_path / "out")]
    flags += ["--push-to-hub", "me/mine", "--private"]
    done = subprocess.run(
        [sys.executable, "-m", "adaptive_jax", *flags], env=os.environ | own, capture_output=True, text=True, check=True
    )
    assert f"{hub.address}/me/mine has it: custom_generate='me/mine', or aj.load_adapter('me/mine')" in done.stdout
    assert hub.private == {"me/mine"}
    assert download_adapter("me/mine").is_dir()
