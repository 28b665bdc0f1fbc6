"""Tokens as variables hold them, some with a name before the secret: `ana:3f6c…`. Pure.

Whoever shows the secret, or the whole of it, shows the token.
"""

import hmac
import re
from functools import lru_cache

from pydantic import SecretStr

ACCEPTED = "printable characters, several tokens separated by commas; a name before one as in ana:…"
_NAMED = re.compile(r"([a-z][a-z0-9-]*):(.*)")


def is_token(text: str) -> bool:
    """A name with nothing behind it is none: `ana:$FORGOTTEN` would let in whoever knows the name."""
    return text.isprintable() and bool(_parts(text)[1])


def name_of(token: SecretStr) -> str:
    """Empty if it has none."""
    return _parts(token.get_secret_value())[0]


def secret_of(token: SecretStr) -> str:
    return _parts(token.get_secret_value())[1]


def _parts(text: str) -> tuple[str, str]:
    found = _NAMED.fullmatch(text)
    return (found[1], found[2].strip()) if found else ("", text)


def matching(given: str, *tokens: SecretStr) -> SecretStr | None:
    """The first of these tokens that `given` is, compared in constant time."""
    tried = given.encode(errors="surrogatepass")  # JSON may hold half a character
    found = [token for form, token in _forms(tokens) if hmac.compare_digest(tried, form)]
    return found[0] if found else None


def matches(given: str, *tokens: SecretStr) -> bool:
    return matching(given, *tokens) is not None


@lru_cache(maxsize=64)
def _forms(tokens: tuple[SecretStr, ...]) -> tuple[tuple[bytes, SecretStr], ...]:
    """Everything that is good, with the token that it is."""
    return tuple((form.encode(), token) for token in tokens for form in forms(token))


def forms(token: SecretStr) -> list[str]:
    """How a token may be shown; nothing of an empty one."""
    return [form for form in dict.fromkeys((token.get_secret_value(), secret_of(token))) if form]
