"""Thresholds that a service has from its file: everybody who reckons with them comes to the same."""

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.api.http.models import Service
from services.monitor.domain.epochs import first
from services.monitor.domain.service import EffectiveThresholds
from services.monitor.state import MonitorState
from services.monitor.store import mapping, snapshot_codec
from services.monitor.store.snapshot_codec import Bucket
from services.notifier.alerting.dependencies import own_silent_after
from shared.contracts.events import ConfigData, ServiceConfig, ServiceUpdated, moment
from shared.contracts.wanted import Wanted
from shared.domain.service_state import ServiceState, apply

MINUTE = 60_000_000
DEFAULT = EffectiveThresholds(15 * MINUTE, 60 * MINUTE, 7 * 24 * 60 * MINUTE)
AT = 1_760_000_000_000_000

lengths = st.none() | st.integers(1, 100_000).map(lambda count: timedelta(minutes=count))
froms = st.sampled_from([None, "template", "defaults"])
FIELDS = ("silent_after", "down_after", "dead_after")
configs = st.fixed_dictionaries(
    dict.fromkeys(FIELDS, lengths),
    optional={"every": lengths, "schedule": st.just("0 3 * * *")},
).flatmap(
    lambda given: st.fixed_dictionaries({field: froms for field in FIELDS if given[field]}).map(
        lambda found: ServiceConfig(
            **{key: value for key, value in given.items() if key != "every" or "schedule" not in given},
            template="t",
            inherited={field: of for field, of in found.items() if of},
        )
    )
)


class _Snapshots:
    """Nothing is kept."""

    def touch(self, *_: Any) -> None: ...

    configured: tuple[int, ...] = (0,) * 1024


@given(configs)
def test_monitor_snapshot_api_and_notifier_reckon_the_same(config: ServiceConfig) -> None:
    event = ServiceUpdated(
        id="1", source="/api", subject="a", time=moment(AT), data=ConfigData(config=config)
    )
    state = MonitorState(_Snapshots(), DEFAULT)  # type: ignore[arg-type]
    service = state.apply_change(mapping.config_change(event, 7, AT))
    restored = snapshot_codec.load(
        snapshot_codec.dump(Bucket(services=[service], epoch=state.epochs[0].since)), first(DEFAULT, "UTC")
    )
    (again,) = restored.services
    known = apply(ServiceState("a"), event, 7, AT)
    defaults = tuple(timedelta(microseconds=length) for length in DEFAULT)
    shown = Service.of(
        known,
        defaults,  # type: ignore[arg-type]
        time_zone="UTC",
        expected=None,
        warnings=[],
        ping_url=None,
        aliases=(),
        muted=None,
        links={"self": ""},
    )
    in_force = [getattr(shown.thresholds, field) // timedelta(microseconds=1) for field in FIELDS]
    assert list(service.patience) == list(again.patience) == in_force
    assert again.inherited == service.inherited
    assert own_silent_after(defaults)(known) == shown.thresholds.silent_after  # type: ignore[arg-type]


def test_what_a_person_sets_is_the_services_own() -> None:
    was = ServiceConfig(
        silent_after=timedelta(minutes=5),
        template="t",
        inherited={"silent_after": "template", "max_run": "defaults"},
    )
    new = Wanted(silent_after="6m").merged_into(was)
    assert (new.inherited, new.template) == ({"max_run": "defaults"}, "t")
    assert Wanted(silent_after="6m").whole().inherited == {}
