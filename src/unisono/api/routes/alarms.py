"""Alarms: what an operator should know, and that somebody has seen it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from unisono.api import present
from unisono.api.auth import Dispatcher, Reader
from unisono.api.context import Context
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.admin import AckAsked, Alarm
from unisono.api.schemas.types import Page
from unisono.base.ids import check_id
from unisono.store import alarms, views

router = APIRouter(prefix="/v1", tags=["alarms"], responses=PROBLEM_RESPONSES)


@router.get("/alarms", summary="List alarms")
async def list_alarms(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    open_only: Annotated[bool, Query(description="Leave out those that are over.")] = True,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Alarm]:
    """Newest first."""
    before = decode_cursor(cursor, str)
    found = await context.run(
        lambda connection: views.alarms(
            connection, caller.organisation_id, is_open_only=open_only, before=before, limit=limit + 1
        )
    )
    more = encode_cursor(found[limit - 1].alarm_id) if len(found) > limit else None
    return Page(items=[present.alarm(one) for one in found[:limit]], next_cursor=link_next(request, response, more))


@router.post("/alarms/{alarm_id}/acknowledge", summary="Somebody has seen it")
async def acknowledge_alarm(alarm_id: str, asked: AckAsked, caller: Dispatcher, context: Context) -> Alarm:
    """Who was first stays on record; again, it changes nothing. The alarm clears by itself when it is over."""
    check_id("alarm", alarm_id, "alarm_id")
    now_ns = context.clock.wall_ns()

    def work(connection: Connection) -> Alarm:
        seen = alarms.acknowledge(
            connection, caller.organisation_id, alarm_id, now_ns, by=caller.name, note=asked.note or ""
        )
        return present.alarm(seen)

    return await context.run(work)
