"""Small things that clients send: lists with commas, and conditions. Pure."""

from shared.http.problems import Problem


def listed(values: list[str]) -> list[str]:
    """What was given repeatedly, or with commas between, or both."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def check_version(if_match: str | None, version: int) -> None:
    """Problem 412 unless the client's condition is `*` or names this version, quoted or weak."""
    if if_match is None or if_match.strip() == "*":
        return
    if str(version) not in {tag.strip().removeprefix("W/").strip('"') for tag in if_match.split(",")}:
        raise Problem(412, f"the version is {version} by now; read it again")
