"""Requests to the registry's own services."""

from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr


class RequestFailed(Exception):
    """A request was refused, or nobody answered; says why."""


def ask(method: str, url: str, tokens: tuple[SecretStr, ...], **rest: Any) -> Any:
    """The answer as JSON. Raises RequestFailed."""
    secret = tokens[0].get_secret_value() if tokens else ""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        response = httpx.request(method, url, headers=headers, timeout=15, trust_env=False, **rest)
    except (httpx.HTTPError, UnicodeError) as error:
        # What is said of a header that cannot be sent holds the token.
        sent = not isinstance(error, httpx.LocalProtocolError | UnicodeError)
        at = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        why = f"{at}: {error}" if sent else f"{at}: the token cannot be sent in a header"
        raise RequestFailed(why) from None
    if response.is_error:
        try:
            reason = response.json().get("detail", response.text)
        except ValueError:
            reason = response.text
        raise RequestFailed(f"{response.status_code}: {reason}")
    return response.json()
