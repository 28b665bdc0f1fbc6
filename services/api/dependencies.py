"""Which services depend on which: no circles. Pure."""

from collections.abc import Callable, Iterable


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
