"""The channels that messages are sent on, as JSON."""

from typing import Annotated

from fastapi import Path

from services.api import channels
from services.api.context import Api
from services.api.http.models import ChannelList, SwitchedOn, Tested
from services.api.http.routing import reading, writing
from shared.http.problems import documented

writes, reads = writing("channels"), reading("channels")
ChannelName = Annotated[
    str, Path(max_length=300, description="As in `GET /channels`.", examples=["ops"], min_length=1)
]


@reads.get("/channels")
async def list_channels(api: Api) -> ChannelList:
    """Every channel: when a message arrived last, the last error, since when it refuses messages and why, how
    much waits for it, and its own mutes."""
    return ChannelList(items=await channels.all_channels(api.link))


@writes.post("/channels/{name}/test", responses=documented(404, 422, 429, 502, 504))
async def test_channel(name: ChannelName, api: Api) -> Tested:
    """Send a test message on this channel now, whatever waits for it. It is no event, and in no audit."""
    return await channels.send_test(api.link, name)


@writes.post("/channels/{name}/on", responses=documented(404, 422))
async def switch_channel_on(name: ChannelName, api: Api) -> SwitchedOn:
    """Try a channel again at once that has refused messages, as `/start` in a chat does; what was kept for it
    follows. It is no event, and in no audit."""
    return await channels.switch_on(api.link, name)
