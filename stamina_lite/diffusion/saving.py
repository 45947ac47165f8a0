"""Saving of pipelines in any precision, so that stock code can load and use them."""

import copy
import functools


def save_in_fp32(model) -> None:
    """Make `model.save_pretrained` write fp32 weights; the model itself keeps its precision.

    Without a dtype argument, transformers loads a model in the precision of its file, but diffusers in fp32. A pipeline
    whose text encoder was saved in half precision then fails at its first prompt.
    """

    @functools.wraps(type(model).save_pretrained.__get__(model))  # diffusers inspects the signature
    def save(*args, **options):
        type(model).save_pretrained(copy.deepcopy(model).float(), *args, **options)

    model.save_pretrained = save
