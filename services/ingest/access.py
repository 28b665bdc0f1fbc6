"""Who may send heartbeats."""

from pydantic import SecretStr

from shared.settings import matches


def authorized(authorization: str, tokens: tuple[SecretStr, ...]) -> bool:
    """Whether an `Authorization` header carries one of `tokens`, or there are none."""
    if not tokens:
        return True
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and matches(given.strip(), *tokens)
