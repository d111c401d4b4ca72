"""A hub of ours for the real client, and what needs PyTorch, which is imported when a test asks for it."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import adaptive_jax as aj
from adaptive_jax.lm.model import TINY
from tests.runs.fake_hub import TOKEN, FakeHub, fake_hub


@pytest.fixture(scope="package")
def lm() -> aj.LM:
    return aj.load_lm("tiny")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        for name, value in {"ENDPOINT": hub.address, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="package")
def torch() -> Any:
    """Imported here: the tests are collected without it, too."""
    return importlib.import_module("torch")


@pytest.fixture(scope="package")
def _modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies code into a cache, which is one for all programs otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        modules = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
        patch.syspath_prepend(modules)
        yield


@pytest.fixture(scope="package")
def model(torch: Any, _modules: None) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
