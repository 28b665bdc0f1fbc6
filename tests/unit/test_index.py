"""The services in the API's memory, whatever part of them is known first."""

from services.api.projections.documents import load
from services.api.queries.index import ServiceIndex

CONFIG = {"seq": 9, "deleted": False, "registered_at": 5, "paused": False, "notify": True, "tags": []}


def test_a_status_whose_configuration_was_purged_waits_for_it() -> None:
    index = ServiceIndex()
    status = {"seq": 3, "status": "alive", "since": 5, "last_heartbeat": 5}
    parts = [{"_id": "web", "status": status}, {"_id": "never", "heartbeat": {"seq": 1, "at": 4}}]
    index.load(map(load, parts))
    assert not index.knows("web")
    assert not index.knows("never")
    index.load([load({"_id": "web", "config": CONFIG | {"description": ""}})])
    state = index._states["web"]
    assert (state.exists, state.status) == (True, "alive")
    assert "never" not in index._states, "names that are never registered cost nothing"


def test_it_knows_which_services_have_no_ping_key_yet() -> None:
    index, config = ServiceIndex(), CONFIG | {"description": ""}
    index.load(load({"_id": name, "config": config}) for name in ("web", "db"))
    assert index.without_key == {"web", "db"}
    index.load([load({"_id": "web", "config": config | {"seq": 10, "ping_key": "a-key"}})])
    index.load([load({"_id": "db", "config": config | {"seq": 11, "deleted": True}})])
    assert index.without_key == set()
