"""Gatus' configuration as services. Pure.

External endpoints wait for somebody to report, as services here do; each is named by the key in the address
that reports to it, so that a client needs nothing but another base URL. Gatus looks once an interval whether
something has come, and sends an alert after `failure-threshold` looks: here it is down when Gatus says so at
the latest.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from services.cli.imports.draft import Draft, SourceError, text_of
from shared.contracts.events import COUNT_MAX

FAILURES, SUCCESSES = 3, 2
"""An alert's thresholds where it has none."""
_PLACEHOLDER = re.compile(r"\$(?:\{[^}]*\}|[A-Za-z_][A-Za-z0-9_]*)")
_REPLACED = re.compile(r"[/_., #+&]")
_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)")
_NOT_HERE = {
    "alerting": "`alerting` (set your channels as settings of the registry)",
    "maintenance": "`maintenance` (write it under `maintenance`)",
    "remote": "`remote` instances",
    "tunneling": "`tunneling`",
}


def convert(files: Sequence[tuple[str, Any]], now: datetime, *, probes: bool = False) -> Draft:
    """`files`: their names, and what stands in them with every scalar as text. `probes`: what Gatus asks
    by itself becomes a service too. Raises SourceError."""
    draft, tokens = Draft(now), dict[str, list[str]]()
    if not any(isinstance(found, dict) for _, found in files):
        raise SourceError("it is no configuration of Gatus: there are no fields in it")
    whole = {key: value for _, found in files if isinstance(found, dict) for key, value in found.items()}
    providers = merged(whole.get("alerting"))
    for name, found in files:
        fields = merged(found)
        for endpoint in _listed(fields, "external-endpoints", name):
            _add(draft, endpoint, providers, tokens, probe=False)
        for endpoint in _listed(fields, "endpoints", name):
            if probes:
                _add(draft, endpoint, providers, tokens, probe=True)
            else:
                why = "what Gatus asks by itself (here services report; --probes makes services of them)"
                draft.left(why, _key(endpoint))
        for suite in _listed(fields, "suites", name):
            draft.left("suites, which Gatus runs by itself", text_of(suite.get("name")) or "?")
    _share(draft, tokens)
    for key, why in _NOT_HERE.items():
        if whole.get(key):
            draft.left(why)
    return draft


def _add(
    draft: Draft,
    endpoint: Mapping[str, Any],
    providers: Mapping[str, Any],
    tokens: dict[str, list[str]],
    *,
    probe: bool,
) -> None:
    name, group = _text(endpoint, "name"), _text(endpoint, "group")
    says = merged(endpoint.get("heartbeat")) if not probe else endpoint
    given = text_of(says.get("interval")) or ("60s" if probe else "")
    interval = _length(given) if given else None
    alerts = _alerts(endpoint, providers)
    failures, successes = alerts or (1, 1)
    limits: dict[str, Any] = {}
    if interval:
        limits = {"silent_after": interval, "down_after": (failures + 1) * interval}
    # Here the whole key is a name; and the group is a tag.
    added = draft.add(
        _key(endpoint),
        description=f"{group}/{name}" if group else name,
        tags=[group] if group else (),
        every=interval,
        fail_after=failures if failures > 1 else None,
        recover_after=successes if successes > 1 else None,
        paused=text_of(endpoint.get("enabled")).lower() == "false",
        **limits,
    )
    token = "" if probe else text_of(endpoint.get("token"))
    for field, value in (("name", name), ("group", group), ("token", token), ("interval", given)):
        if unset := ", ".join(_PLACEHOLDER.findall(value.replace("$$", ""))):
            draft.left(f"its {field}, which Gatus' environment has as {unset} (set it by hand)", added)
    if token and not _PLACEHOLDER.search(token.replace("$$", "")):
        tokens.setdefault(token.replace("$$", "$"), []).append(added)
    if given and interval is None and not _PLACEHOLDER.search(given):
        draft.left("its interval, which is none such as 30s, 5m", added)
    if not given:
        draft.left(
            "that no heartbeat of it is expected, as it has no `interval` (here one is: set `every`)", added
        )
    if endpoint.get("alerts"):
        draft.left("who hears of it, `alerts` (routes decide that here)", added)
    if endpoint.get("maintenance-windows"):
        draft.left("`maintenance-windows` (write them under `maintenance`)", added)


def _share(draft: Draft, tokens: Mapping[str, list[str]]) -> None:
    """A token that one endpoint has is its alias; one that several have is a token of ingest's."""
    for token, whose in tokens.items():
        if len(whose) == 1:
            draft.give_alias(whose[0], token)
        else:
            draft.left("the token that several share (make it one of REGISTRY_INGEST_TOKEN)", *whose)


def _key(endpoint: Mapping[str, Any]) -> str:
    """As it stands in the address."""
    return "_".join(_REPLACED.sub("-", _text(endpoint, part).lower()) for part in ("group", "name"))


def _text(endpoint: Mapping[str, Any], field: str) -> str:
    return text_of(endpoint.get(field)).replace("$$", "$").strip()


def _alerts(endpoint: Mapping[str, Any], providers: Mapping[str, Any]) -> tuple[int, int] | None:
    """After how many failures the first alert is sent, and after how many successes it is resolved; None
    without one."""
    found = []
    for alert in _objects(endpoint.get("alerts")):
        provider = merged(providers.get(text_of(alert.get("type"))))
        both = merged(provider.get("default-alert")) | alert
        if text_of(both.get("enabled")).lower() != "false":
            failures = _count(both.get("failure-threshold"), FAILURES)
            found.append((failures, _count(both.get("success-threshold"), SUCCESSES)))
    return min(found, default=None)


def _count(value: Any, default: int) -> int:
    given = text_of(value)
    return min(int(given), COUNT_MAX) if re.fullmatch("[1-9][0-9]{0,5}", given) else default


def _length(text: str) -> timedelta | None:
    """A duration as Go writes it, longer than nothing; else None."""
    if not re.fullmatch(rf"(?:{_PART.pattern})+", text):
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return timedelta(seconds=seconds) if 1e-3 <= seconds <= 1e9 else None


def _listed(fields: Mapping[str, Any], key: str, name: str) -> list[dict[str, Any]]:
    value = fields.get(key)
    if value in (None, "", "null", "~"):
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise SourceError(f"{name}: `{key}` is no list of objects")
    return [merged(each) for each in value]


def _objects(value: Any) -> Iterable[dict[str, Any]]:
    return (merged(each) for each in (value if isinstance(value, list) else ()) if isinstance(each, dict))


def merged(value: Any, depth: int = 20) -> dict[str, Any]:
    """The fields of an object with those that it merges (`<<: *anchor`), which its own go before; empty for
    anything else."""
    if not isinstance(value, dict) or not depth:
        return {}
    more = value.get("<<", ())
    found: dict[str, Any] = {}
    for each in reversed(more if isinstance(more, list) else [more]):
        found |= merged(each, depth - 1)
    return found | {str(key): each for key, each in value.items() if key != "<<"}
