"""Which services depend on which: no circles. Pure."""

from collections.abc import Callable, Iterable, Iterator


def circle(
    name: str, depends_on: Iterable[str], parents: Callable[[str], Iterable[str]]
) -> tuple[str, ...] | None:
    """The way back to `name`, if it is to depend on these: `name`, one of them, one that this depends on, and
    so on until `name`. None: there is none. `parents`: what a service depends on."""
    came_from = dict.fromkeys(depends_on, name)
    waiting = list(came_from)
    while waiting:
        here = waiting.pop()
        if here == name:
            way = [name]
            while (here := came_from[here]) != name:
                way.append(here)
            return name, *way[:0:-1], name
        for parent in parents(here):
            if parent not in came_from:
                came_from[parent] = here
                waiting.append(parent)
    return None


def circles(names: Iterable[str], parents: Callable[[str], Iterable[str]]) -> Iterator[tuple[str, ...]]:
    """Circles among these services and all that they depend on, each once: its services in order. Not every
    way that leads into one is told."""
    done: set[str] = set()
    for first in names:
        if first in done:
            continue
        way, on_way = [first], {first: 0}
        waiting = [iter(parents(first))]
        while waiting:
            parent = next(waiting[-1], None)
            if parent is None:
                waiting.pop()
                done.add(left := way.pop())
                del on_way[left]
            elif parent in on_way:
                yield tuple(way[on_way[parent] :])
            elif parent not in done:
                on_way[parent] = len(way)
                way.append(parent)
                waiting.append(iter(parents(parent)))
