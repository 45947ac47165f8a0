"""Adding concepts' tokens to a tokenizer, and checking prompts that contain them."""

import re
import warnings
from collections.abc import Iterable

from ..errors import UserError, UserNotice
from .concepts import Concept

TOKEN = re.compile(r"<[\w-]+>")  # the shape of a concept's token


def add_token(tokenizer, text_encoder, token: str) -> int:
    """Append a token to the vocabulary and a row to the embedding table; the other rows stay bit-equal.

    Returns:
        The token's index.

    Raises:
        ValueError: the token is in the vocabulary already.
    """
    from transformers import AddedToken

    if tokenizer.add_tokens([AddedToken(token, normalized=False)]) != 1:
        raise ValueError(f"{token} is in the vocabulary already: choose another name")
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    text_encoder.requires_grad_(False)
    return tokenizer.convert_tokens_to_ids(token)


def check_tokens(concepts: Iterable[Concept], tokenizer) -> None:
    """Raise UserError for a concept whose token is in the vocabulary, or whose name is a single token of it."""
    vocabulary = {token.lower() for token in tokenizer.get_vocab()}
    for concept in concepts:
        if concept.token.lower() in vocabulary:
            raise UserError(f"the model knows {concept.token} already: rename the folder of {concept.name}")
        if len(tokenizer.tokenize(concept.name)) == 1:
            raise UserError(f"{concept.name} is a word the model knows: rename the folder, say my-{concept.name}")


def check_prompt(prompt: str, tokenizer) -> None:
    """Check the tokens of a prompt, and whether it fits into the text encoder.

    Angle brackets around anything but a concept's name are text: "I <3 cats". Words that the text encoder has no
    position for are named in a warning.

    Raises:
        UserError: a <token> is not in the vocabulary or would be truncated, or the prompt is not text.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt holds bytes that are no text: write it in UTF-8") from None
    added = [token for token in tokenizer.get_added_vocab() if re.fullmatch(r"<[^<>|]+>", token)]
    names = {token.lower(): token for token in added}
    for bracketed in re.findall(r"<[^<>]*>", prompt):
        similar = names.get(bracketed.lower().replace(" ", "-"))
        if bracketed not in added and (similar or TOKEN.fullmatch(bracketed)):
            choice = f"write {similar}" if similar else f"choose {', '.join(added[:8])}" + ", ..." * (len(added) > 8)
            raise UserError(
                f"unknown token {bracketed}: {choice if added else 'this model has learned no concept yet'}"
            )
    ids, length = tokenizer(prompt, verbose=False).input_ids, tokenizer.model_max_length
    if len(ids) > length:
        used, cut = ids[: length - 1], ids[length - 1 : -1]  # the last position is that of the end of the text
        for token in added:
            index = tokenizer.convert_tokens_to_ids(token)
            if index in cut and index not in used:
                raise UserError(f"the prompt is too long, {token} is cut off: name it among the first words")
        words = tokenizer.decode(cut).strip()
        warnings.warn(
            f"the prompt is too long: the text encoder does not see its end, {words}", UserNotice, stacklevel=4
        )


def check_prompts(prompts: list[str], tokenizer) -> None:
    for prompt in dict.fromkeys(prompts):
        check_prompt(prompt, tokenizer)
