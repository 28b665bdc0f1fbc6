"""What a subscriber may choose: `/only`, `/all` and `/quiet`."""

from zoneinfo import ZoneInfo

import pytest

from services.notifier.bot.choices import answer_choice
from shared.contracts.routes import Quiet
from shared.domain.routing import Choice
from tests.notified import World

BERLIN = ZoneInfo("Europe/Berlin")


async def world() -> World:
    it = World()
    it.register()
    it.register("db", tags=("db", "big"))
    await it.start()
    return it


async def says(it: World, text: str) -> str:
    command, *words = text.split()
    return (await answer_choice(it.chats[0], command, words, it.states, BERLIN)).plain_text


async def test_what_is_chosen_is_said_and_kept() -> None:
    it = await world()
    assert "every service" in await says(it, "/only")
    assert "tag db or web" in (said := await says(it, "/only db web db"))
    assert "1 service has it now" in said
    assert "From 22:00-07:00 Europe/Berlin without sound." in await says(it, "/quiet 22:00-7:00")
    await it.restart()
    assert it.chats[0].state.choice == Choice(("db", "web"), Quiet.parse("22:00-07:00 Europe/Berlin"))
    said = await says(it, "/only")
    assert "db or web" in said
    assert "22:00" in said
    assert "every service" in (said := await says(it, "/all"))
    assert "22:00" in said
    assert "at all hours" in await says(it, "/quiet off")
    await it.restart()
    assert it.chats[0].state.choice == Choice()


async def test_a_zone_of_ones_own() -> None:
    it = await world()
    assert "America/New_York" in await says(it, "/quiet 22:00-07:00 America/New_York")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/quiet at night", "hours such as 22:00-07:00"),
        ("/quiet 22:00-07:00 Berlin", "do you mean Europe/Berlin?"),
        ("/quiet 7:00-7:00", "begins when it ends"),
        (f"/only {'x' * 65}", "64 characters"),
        (f"/only {' '.join(map(str, range(33)))}", "At most 32"),
    ],
)
async def test_what_cannot_be_meant_changes_nothing_and_says_why(text: str, said: str) -> None:
    it = await world()
    await it.chats[0].choose(Choice(("db",)))
    assert said in await says(it, text)
    assert it.chats[0].state.choice == Choice(("db",))
