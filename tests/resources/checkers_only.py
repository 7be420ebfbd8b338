"""A handler in a module as linters like it: types are imported for type checkers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from tests.resources.plain_annotations import seen

if TYPE_CHECKING:
    from pgq_trio import Context, Job


async def handler(job: Job, ctx: Context) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)
