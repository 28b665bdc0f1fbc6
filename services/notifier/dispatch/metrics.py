"""What Prometheus is told of messages and of whoever receives them."""

from prometheus_client import Counter, Gauge

MESSAGES = Counter("registry_messages_total", "Attempts to send a message, by how they ended", ["result"])
for _result in ("sent", "failed", "limited", "migrated", "permanent", "refused", "badtoken", "expired"):
    MESSAGES.labels(_result)
OLDEST_UNSENT = Gauge(
    "registry_oldest_unsent_seconds", "Age of the oldest change that a chat has not got yet"
)
UNSENT = Gauge("registry_unsent_changes", "Changes that wait for a chat, counted once for each")
CHATS = Gauge("registry_chats", "Chats that are sent something")
CHATS_OFF = Gauge("registry_chats_off", "Chats that are not sent anything, because they refuse it for good")
LAST_DIGEST = Gauge("registry_last_digest_timestamp_seconds", "When a digest was last sent")
DIGEST_OVERDUE = Gauge(
    "registry_digest_overdue_seconds", "Time since a digest was due that some chat has not got yet"
)
