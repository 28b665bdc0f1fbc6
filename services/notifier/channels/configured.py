"""Which channels the settings ask for. A new kind of channel is a file in this folder, and a line below."""

import structlog

from services.notifier.channels.apprise import AppriseChannel
from services.notifier.channels.channel import Channel, Outcome, Sent
from services.notifier.channels.telegram import Bot, TelegramChannel
from services.notifier.channels.webhook import WebhookChannel
from services.notifier.settings import NotifierSettings
from services.notifier.texts.message import OutgoingMessage
from shared.contracts.channels import address_of, all_names
from shared.settings import stop

log = structlog.get_logger()


def configured_channels(settings: NotifierSettings, bot: Bot | None) -> list[Channel]:
    secret, private = settings.webhook_secret.get_secret_value(), settings.webhook_private
    made: list[tuple[str, Channel]] = [
        *((it, TelegramChannel(bot, address_of(it))) for it in settings.telegram_chat_id if bot),
        *((it, WebhookChannel(address_of(it), secret, private=private)) for it in settings.webhook_urls),
        *((it, _apprise(address_of(it))) for it in settings.apprise_urls),
    ]
    found = [channel for _, channel in made]
    names = all_names([configured for configured, _ in made], [channel.name for channel in found])
    for channel, name in zip(found, names, strict=True):
        channel.name = name
    return found


def _apprise(url: str) -> AppriseChannel:
    try:
        return AppriseChannel(url)
    except ImportError:
        stop("REGISTRY_APPRISE_URLS needs the extra: pip install 'services-registry[apprise]'")
    except ValueError as error:
        stop(f"REGISTRY_APPRISE_URLS: {error}")


class LogChannel(Channel):
    """The channel of those who have no other: each message becomes a log line."""

    key = "log"
    name = "log"
    chat = "log"

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome:
        log.info("notification", text=message.plain_text, loud=not message.silent)
        return Sent()
