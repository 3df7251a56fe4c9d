"""The Hugging Face hub: a repository made if need be, and filled in one commit."""

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from masked_sae.errors import InputError, first_line

_TOKENS = "https://huggingface.co/settings/tokens"
_SERVER_FAILED = 500
_REFUSALS = {
    401: "a login that the hub knows: `hf auth login`, or another HF_TOKEN",
    402: "an account that may store so much",
    403: f"a token that may write there ({_TOKENS}), and an owner that you may publish for",
    404: "a repository of yours, and a token that may write there",
    409: "nobody else at work on the repository: start again",
    413: "less at once: the hub takes no files of this size",
    429: "some patience: the hub has been asked too often; start again later",
}


def check_name(repo: str) -> None:
    """Whether it can be a repository's name, as far as that can be told without the hub.

    Raises:
        InputError: it cannot.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(
            "repo", repo, f"owner/name, or the name of a repository of yours ({first_line(error)})"
        ) from error


def full_name(repo: str) -> str:
    """With its owner: whoever is logged in, where none is named.

    Raises:
        InputError: nobody is, or the hub cannot be asked.
    """
    if get_token() is None:
        raise InputError("repo", repo, "a login, to publish there: `hf auth login`, or HF_TOKEN")
    with _hub_errors(repo):
        user = HfApi().whoami()["name"]
    return repo if "/" in repo else f"{user}/{repo}"


def upload(repo: str, files: Mapping[str, Path], message: str, *, private: bool) -> str:
    """Adds or replaces files of a repository, all of them in one commit; others that it has stay.

    Args:
        repo: with its owner.

    Returns:
        Where it can be seen.

    Raises:
        InputError: the hub refuses, or a repository is public that should be private. Nothing was published then.
    """
    api = HfApi()
    with _hub_errors(repo):
        made = _make(api, repo, private=private)
    additions = [CommitOperationAdd(name, file) for name, file in files.items()]
    url = f"{api.endpoint}/{repo}"
    refused = "; nothing was published" + (", and the repository that was made is empty" if made else "")
    with (
        _hub_errors(repo, refused, f"; {url} shows whether all of it was published, or nothing"),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # results.parquet
        api.create_commit(repo, additions, commit_message=message)
    return url


def _make(api: HfApi, repo: str, *, private: bool) -> bool:
    """Whether it was made now."""
    try:
        is_private = api.model_info(repo).private
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        return True
    if private and not is_private:
        raise InputError("private", private, f"false: {repo} is there, and public; or another repo")
    return False


@contextmanager
def _hub_errors(repo: str, refused: str = "", unknown: str = "") -> Generator[None]:
    """
    Args:
        refused: what follows from it that the hub refused.
        unknown: and where nobody knows whether it did.
    """
    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled as error:
        raise InputError("repo", repo, "a hub that may be asked: HF_HUB_OFFLINE is set") from error
    except Exception as error:
        answer = _hub_answer(error)
        if answer is not None and answer.response.status_code < _SERVER_FAILED:
            raise InputError("repo", repo, f"{_refusal(answer)}{refused}") from error
        # Each version of the hub's client has its own errors of the network.
        how = "; dry_run=true writes all of it to a folder"
        raise InputError(
            "repo", repo, f"a hub that can be reached and takes it ({first_line(error)}){how}{unknown}"
        ) from error


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    return f"{_REFUSALS.get(status, f'what the hub takes: {first_line(error)}')} (the hub said {status})"


def _hub_answer(error: BaseException | None) -> HfHubHTTPError | None:
    """What the hub said, if need be beneath what the upload of one of several files makes of it."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error
