"""The services in the API's memory, whatever part of them is known first."""

from services.api.healthchecks.checks import unique_key
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


def test_a_check_is_found_by_what_it_is_called_for_as_long_as_it_is_called_so() -> None:
    index, config = ServiceIndex(), CONFIG | {"description": ""}
    keys = {
        name: f"{number}d3a8e0c-7a64-4c0a-9f7e-2b1d7c3e9a10" for number, name in enumerate(("a", "b", "c"))
    }
    unique = {name: unique_key(key) for name, key in keys.items()}

    def load_(name: str, seq: int, **fields: object) -> None:
        index.load([load({"_id": name, "config": config | {"seq": seq, "ping_key": keys[name]} | fields})])

    def called(word: str) -> list[str]:
        return [state.name for state in index.called(word)]

    load_("a", 10, as_check={"name": "My job", "slug": "job"})
    load_("b", 11, as_check={"name": "My job"})
    load_("c", 12)
    assert (called("My job"), called("my-job"), called("job")) == (["a", "b"], ["a", "b"], ["a"])
    assert (called("c"), called("nobody")) == (["c"], [])
    assert {name: index.with_unique_key(key) for name, key in unique.items()} == {it: it for it in keys}
    load_("a", 13, as_check={"name": "c"})
    load_("b", 14, deleted=True)
    assert (called("My job"), called("my-job"), called("job"), called("c")) == ([], [], [], ["a", "c"])
    assert index.with_unique_key(unique["b"]) is None
    keys["a"] = "7" + keys["a"][1:]
    load_("a", 15)
    assert (index.with_unique_key(unique["a"]), index.with_unique_key(unique_key(keys["a"]))) == (None, "a")
    assert not index._called, "what nobody is called costs nothing"
