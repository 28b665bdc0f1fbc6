"""Where the services listen, and whether they can."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

from services.cli.settings import RunSettings
from shared.settings import PREFIX, Settings, stop

Place = tuple[str, str, int]
"""Where something listens: its variable without the prefix, host and port."""


def choose_ports(settings: RunSettings, servers: Sequence[Place] = ()) -> dict[str, int]:
    """The ports of the services. Default ports that are taken are replaced by free ones. Ends the process
    with code 2 if another port is taken, or is wanted by two; `servers`: where the embedded servers listen.
    """
    ports = {
        "ingest": settings.ingest_port,
        "monitor": settings.monitor_port,
        "notifier": settings.notifier_port,
        "api": settings.api_port,
    }
    ours = list(servers)
    gives_way = {each for each in ("monitor", "notifier") if f"{each}_port" not in settings.model_fields_set}
    for name in sorted(ports, key=gives_way.__contains__):
        place = f"{name.upper()}_PORT", bound_to(name, settings), ports[name]
        if name in gives_way and (_holder(place, ours) or not is_free(*place[1:])):
            ports[name] = free_port()
            place = *place[:2], ports[name]
        ours.append(place)
    for n, place in enumerate(ours):
        variable, host, port = place
        if other := _holder(place, ours[:n]):
            stop(f"{PREFIX}{variable}: port {port} is that of {PREFIX}{other} already; accepted: another one")
        if not is_free(host, port):
            stop(f"port {port} on {host} is taken (or not ours to use): set {PREFIX}{variable} to a free one")
    return ports


def _holder(place: Place, others: Iterable[Place]) -> str:
    """The variable of the one among `others` that listens at the same place; empty: none does."""
    _, host, port = place
    for variable, its_host, its_port in others:
        if port == its_port and (host == its_host or any(map(_is_everywhere, (host, its_host)))):
            return variable
    return ""


def _is_everywhere(host: str) -> bool:
    """Whether what is bound to it listens at each address of this machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except (OSError, UnicodeError):  # the latter: it cannot be the name of a host
            return False
    return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def bound_to(name: str, settings: Settings) -> str:
    """The address that a service is bound to."""
    return settings.host if name in ("ingest", "api") else settings.metrics_host
