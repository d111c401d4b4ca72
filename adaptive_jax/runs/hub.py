"""Adapters on the Hugging Face hub: down to the local cache, and up from the directory of an export.

The hub's address, token and cache are those of huggingface_hub: HF_ENDPOINT, HF_TOKEN or `hf auth login`, and HF_HOME.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from adaptive_jax.runs.portable import CONFIG, WEIGHTS

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # "user/name"
OF_THE_HUB = {".gitattributes", "README.md"}  # what new repositories may have of their own
EXPORTED = "custom_generate/generate.py"


def is_hub_id(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None


def download_adapter(name: str, revision: str | None = None) -> Path:
    """The local copy of an adapter's two files, downloaded if need be; without a connection the copy of an earlier download.

    Args:
        name: "user/name".
        revision: a branch, a tag or a commit; the newest of the main branch if None.

    Raises:
        FileNotFoundError: there is no such repository or revision, it is not ours to read, it holds no adapter, or the hub
            cannot be reached and there is no local copy.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    wanted = f"the adapter {name!r}" + ("" if revision is None else f" at revision {revision!r}")
    try:
        directory = Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except hub.GatedRepoError as error:
        raise FileNotFoundError(f"{wanted} is gated: ask for access on its page, and log in with `hf auth login`") from error
    except hub.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no adapter {name!r}: it is not a local directory, and the hub has no such repository, or it is private: check "
            "the name, or log in with `hf auth login`"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{wanted} is not on the hub: the repository has no such branch, tag or commit") from error
    except _failures() as error:
        raise FileNotFoundError(
            f"no adapter {name!r}: it is not a local directory, there is no copy from the hub, and the hub cannot be asked "
            f"({_short(error)}): connect, unset HF_HUB_OFFLINE, or give the directory of an adapter"
        ) from error
    if missing := [file for file in (CONFIG, WEIGHTS) if not (directory / file).is_file()]:
        raise FileNotFoundError(
            f"{wanted} is none: the repository has no {missing[0]}; one that `python -m adaptive_jax export` wrote has it"
        )
    if b'"peft_type"' in (directory / CONFIG).read_bytes():  # the same file name, of another library
        raise FileNotFoundError(f"{wanted} is one of PEFT, which changes a model's weights, and no sampling policy")
    return directory


def upload(directory: Path, name: str, *, private: bool = False) -> str:
    """Put an export on the hub, as one commit; a repository that is not there is made. Returns its address.

    Args:
        directory: of the export.
        name: "user/name".
        private: whether a new repository is; one that is there stays as it is.

    Raises:
        ValueError: the name is no hub id, or the repository holds something else than an export.
        ConnectionError: the hub cannot be reached or does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    check_hub_id(name)
    api = HfApi()
    try:
        address = str(api.create_repo(name, exist_ok=True, private=private or None))
        check_repository(name, api.list_repo_files(name))
        api.upload_folder(folder_path=directory, repo_id=name, commit_message="Adapter, exported by adaptive_jax")
    except hub.HfHubHTTPError as error:
        refused = error.response is not None and error.response.status_code in (401, 403, 404)
        mend = "log in with `hf auth login`, or set HF_TOKEN to a token that may write there" if refused else "try again"
        raise ConnectionError(f"the hub did not take {name} ({_short(error)}): {mend}") from error
    except _failures() as error:
        raise ConnectionError(f"the hub cannot be reached ({_short(error)}): connect, and unset HF_HUB_OFFLINE") from error
    return address


def check_hub_id(name: str) -> None:
    """Raises ValueError where nothing on the hub can have the name."""
    if not is_hub_id(name):
        raise ValueError(f"{name!r} is no name of a repository: give one such as 'user/my-adapter'")


def check_repository(name: str, files: Iterable[str]) -> None:
    """Raises ValueError where a repository holds something else than an export, such as somebody's model."""
    others = sorted(set(files) - OF_THE_HUB)
    if others and EXPORTED not in others:
        raise ValueError(f"{name} holds {others[0]}, so it is no export: give --push-to-hub the name of a new repository")


def _failures() -> tuple[type[Exception], ...]:
    """What the hub's client raises without a connection: errors of its HTTP library, which depends on the version, too."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)))


def _short(error: BaseException) -> str:
    """One line of an error: those of the hub's client have several, with request ids."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
