"""Upload a tokenizer to the Hugging Face hub: the whole folder, with its model card."""

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from runtime.errors import UserError
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import one_line, save_tokenizer


def push_tokenizer(
    model: SemHiTokModel,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload SemHiTok tokenizer",
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: str = "5GB",
) -> str:
    """Upload what `save_tokenizer` writes.

    Args:
        model: a whole tokenizer or a half.
        repo_id: NAME or OWNER/NAME; made where it is missing.
        private: who may see a new repository; None is the owner's default.
        token: of the hub; by default that of `hf auth login`.
        commit_message, revision, create_pr: of the commit.
        max_shard_size: see `save_tokenizer`.

    Returns:
        The address of the commit.

    Raises:
        UserError: if the hub cannot be reached or refuses.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            save_tokenizer(model, Path(folder) / "model", max_shard_size=max_shard_size)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=Path(folder) / "model",
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"The tokenizer cannot be pushed to {repo_id!r}: log in with `hf auth login`, and name "
            f"a repository that you may write ({one_line(error)})."
        ) from error
    return str(commit)
