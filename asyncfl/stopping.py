"""When training is over: the `[stop]` section of a deployment file."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from asyncfl.deployment_fields import Section

Rows = Annotated[int, Field(ge=1, le=100_000)]


class Stop(Section):
    """By the accuracy on the clients' own test data over `rows` rows together.

    Training is over when it is at least `accuracy`, or when it has not been better for `patience_rows` rows.
    """

    accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    rows: Rows = 5
    patience_rows: Rows | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.accuracy is None and self.patience_rows is None:
            raise ValueError("accuracy or patience_rows is needed: nothing else would end the training")
        return self
