"""What tasks share: what each tower reads."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig


class ShareAllConfig(BaseConfig):
    """Every tower reads the backbone's output."""

    kind: Literal["share_all"]


class ShareNoneConfig(BaseConfig):
    """Every tower reads the inputs; there is no backbone."""

    kind: Literal["share_none"]


class SharePartialConfig(BaseConfig):
    """Every tower reads the inputs and the backbone's output, joined."""

    kind: Literal["share_partial"]


SharingConfig = Annotated[ShareAllConfig | ShareNoneConfig | SharePartialConfig, Field(discriminator="kind")]
