"""What the notifier is told by its environment."""

import re
from datetime import time, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr, model_validator
from pydantic_settings import NoDecode

from services.notifier.channels import webhook
from shared import settings
from shared.contracts import channels, durations
from shared.http import urls
from shared.settings import Accepted, Concealed, HttpUrl, Port, Settings, TimeOfDay, all_of

MIN_SECRET_LENGTH = 16

_CHAT = re.compile(r"(-?\d{1,20}|@\w{3,64})(:\d{1,18})?", re.ASCII)


def _each_once(configured: tuple[str, ...]) -> tuple[str, ...]:
    """Two names of one address are refused."""
    found = tuple(dict.fromkeys(configured))
    if len({channels.address_of(each) for each in found}) < len(found):
        raise ValueError("not accepted")
    return found


EachOnce = AfterValidator(_each_once)


def _is_chat(configured: str) -> bool:
    return _CHAT.fullmatch(channels.address_of(configured)) is not None


def _is_webhook(configured: str) -> bool:
    return urls.is_http(channels.address_of(configured))


def _is_apprise(configured: str) -> bool:
    return urls.has_scheme(channels.address_of(configured))


def _is_secret(given: str) -> bool:
    return re.fullmatch("[A-Za-z0-9_-]{8,64}", given, re.ASCII) is not None


def _words(value: Any) -> Any:
    return tuple(value.split()) if isinstance(value, str) else value


def _key(given: SecretStr) -> SecretStr:
    webhook.signing_key(given.get_secret_value())
    return given


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _weekday(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        return None
    if value.strip().lower()[:3] not in _DAYS:
        raise ValueError("accepted: mon, tue, wed, thu, fri, sat, sun, or nothing")
    return _DAYS.index(value.strip().lower()[:3])


def _reminders(value: Any) -> Any:
    """In order, without doubles; `0` or nothing: none."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return tuple(sorted({durations.parse(part) for part in parts})) if parts != ["0"] else ()


RemindAfter = Annotated[tuple[timedelta, ...], NoDecode, BeforeValidator(_reminders)]
REMIND_AFTER = timedelta(hours=1), timedelta(hours=6), timedelta(days=1)


class NotifierSettings(Settings):
    notifier_port: Port = 8004
    """Port of the notifier. `make run` takes a free one if it is taken."""
    digest_time: TimeOfDay = time(9)
    """Local time of the daily digest. Empty: none."""
    weekly_digest: Annotated[int | None, BeforeValidator(_weekday)] = None
    """`mon` to `sun`: on that day also a digest of the week, with the uptime of each service. Empty: none."""
    remind_after: RemindAfter = REMIND_AFTER
    """When to remind of what is still down; the last one repeats. `0`: never."""
    deadman_url: settings.SecretHttpUrl = SecretStr("")
    """Fetched once a minute while evaluation and delivery work, so that somebody else notices when they do
    not."""
    webhook_urls: Annotated[
        settings.CommaSeparated,
        EachOnce,
        all_of(_is_webhook),
        Concealed(f"{urls.HTTP}, several separated by commas, each once; {channels.NAME}"),
    ] = ()
    """Signed webhooks, with commas between; each may have a name, as in `chat-ops=https://…`."""
    webhook_secret: Annotated[
        SecretStr, AfterValidator(_key), Concealed("16 or more characters, or whsec_ and base64 behind it")
    ] = SecretStr("")
    """Signs the webhooks: 16 or more characters."""
    webhook_private: bool = False
    """Whether webhooks may go to private addresses."""
    apprise_urls: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_words),
        EachOnce,
        all_of(_is_apprise),
        Concealed(f"Apprise URLs such as ntfy://TOPIC, with blanks between, each once; {channels.NAME}"),
    ] = ()
    """Apprise URLs, with blanks between; each may have a name, as in `phone=ntfy://TOPIC`."""
    telegram_bot_token: SecretStr = SecretStr("")
    """The bot's token. Empty: no Telegram, and messages go to the log if there is no other channel."""
    telegram_chat_id: Annotated[
        settings.CommaSeparated,
        EachOnce,
        all_of(_is_chat),
        Accepted(f"a chat's number, @channel, or either with :topic behind it, each once; {channels.NAME}"),
    ] = ()
    """Chats that always get messages, with commas between: `123456789`, `-100…` of a group, `@channel`,
    `chat:topic`; each may have a name, as in `ops=-100…,ana=4711`."""
    telegram_invite: Annotated[
        SecretStr, all_of(_is_secret), Concealed("8 to 64 letters, digits, _ and -")
    ] = SecretStr("")
    """The secret with which anyone can subscribe: `/start SECRET`. Empty: nobody."""
    telegram_api_url: HttpUrl = "https://api.telegram.org"
    """A Bot API server of your own."""

    @model_validator(mode="after")
    def _together(self) -> "NotifierSettings":
        if self.weekly_digest is not None and self.digest_time is None:
            raise ValueError("REGISTRY_WEEKLY_DIGEST needs a REGISTRY_DIGEST_TIME")
        if self.webhook_urls and len(self.webhook_secret.get_secret_value()) < MIN_SECRET_LENGTH:
            needed = f"REGISTRY_WEBHOOK_SECRET of {MIN_SECRET_LENGTH} or more characters"
            raise ValueError(f"REGISTRY_WEBHOOK_URLS needs a {needed}")
        if twice := channels.named_twice((*self.telegram_chat_id, *self.webhook_urls, *self.apprise_urls)):
            where = "REGISTRY_TELEGRAM_CHAT_ID, REGISTRY_WEBHOOK_URLS and REGISTRY_APPRISE_URLS"
            raise ValueError(
                f"the name {twice!r} is given to two channels of {where}; accepted: each name once"
            )
        return self

    @property
    def token(self) -> str:
        return self.telegram_bot_token.get_secret_value().strip()
