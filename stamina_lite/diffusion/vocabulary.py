"""Adding concepts' tokens to a tokenizer, and checking prompts that contain them."""

import re
from collections.abc import Iterable

from ..errors import UserError
from .concepts import Concept


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
    """Raise UserError for a <token> in the prompt that is not in the vocabulary or would be truncated."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt holds bytes that are no text: write it in UTF-8") from None
    added = [token for token in tokenizer.get_added_vocab() if re.fullmatch(r"<[^<>|]+>", token)]
    tokens = re.findall(r"<[^<>]*>", prompt)
    for token in tokens:
        if token not in added:
            similar = [other for other in added if other.lower() == token.lower()]
            choice = f"write {similar[0]}" if similar else f"choose {', '.join(added[:8])}" + ", ..." * (len(added) > 8)
            raise UserError(f"unknown token {token}: {choice if added else 'this model has learned no concept yet'}")
    if tokens:
        ids = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
        truncated = [token for token in tokens if tokenizer.convert_tokens_to_ids(token) not in ids]
        if truncated:
            raise UserError(f"the prompt is too long, {truncated[0]} is cut off: name it among the first words")


def check_prompts(prompts: list[str], tokenizer) -> None:
    for prompt in dict.fromkeys(prompts):
        check_prompt(prompt, tokenizer)
