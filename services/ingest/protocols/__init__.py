"""Other systems' protocols, whose clients are heard unchanged. A new one is a file here and a line below."""

from services.ingest.protocols import gatus, healthchecks, sentry, uptime_kuma

PROTOCOLS = (
    healthchecks.PROTOCOL,
    uptime_kuma.PROTOCOL,
    gatus.PROTOCOL,
    sentry.PROTOCOL,
)
