"""Networks, attachments and sockets inside containers' namespaces, for tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from services.executor.agent.network import NodeNetwork, Sandbox, namespace
from shared.contracts.networks import Attachment, PublishedPort
from shared.contracts.networks import NodeNetwork as Network


def network(number: int = 17, **overrides: object) -> Network:
    """A bridge network 172.<number>.0.0/16; the first is the default bridge, without names."""
    fields: dict[str, object] = {
        "id": f"{number:02x}" * 32,
        "name": "bridge" if number == 17 else f"net{number}",
        "bridge": "davit0" if number == 17 else f"dv-{number:012x}",
        "subnet": f"172.{number}.0.0/16",
        "gateway": f"172.{number}.0.1/16",
        "dns": number != 17,
    }
    return Network.model_validate({**fields, **overrides})


def attachment(net: Network, host: int, **overrides: object) -> Attachment:
    prefix = net.subnet.rpartition(".0.0/")[0]
    container = str(overrides.pop("container", f"c{net.name}{host}"))
    fields: dict[str, object] = {
        "endpoint_id": f"{container}-{net.id[:4]}".ljust(64, "e"),
        "container_id": container,
        "container_name": container,
        "network": net,
        "address": f"{prefix}.{host // 256}.{host % 256}/16",
        "mac_address": f"02:42:ac:{int(net.id[:2], 16):02x}:{host // 256:02x}:{host % 256:02x}",
        "dns_names": [container] if net.dns else [],
    }
    return Attachment.model_validate({**fields, **overrides})


def port(host_port: int, container_port: int, host_ip: str = "0.0.0.0", protocol: str = "tcp") -> PublishedPort:
    return PublishedPort(protocol=protocol, container_port=container_port, host_ip=host_ip, host_port=host_port)


class Lab:
    """Fake containers: namespaces with servers in them."""

    def __init__(self, node: NodeNetwork) -> None:
        self.node = node
        self._closing = contextlib.ExitStack()

    async def container(self, *attachments: Attachment) -> Sandbox:
        return await self.node.prepare(attachments[0].container_id, attachments)

    def serve(self, box: Sandbox | None, port: int, answer: bytes = b"hello") -> None:
        """A TCP server in a namespace that sends `answer` and the client's address to whoever connects."""
        with inside(box):
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
            listener.listen()

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, address = listener.accept()
                    with client:
                        client.sendall(answer + b" " + address[0].removeprefix("::ffff:").encode())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def stop() -> None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()

        self._closing.callback(stop)

    def close(self) -> None:
        self._closing.close()


@contextlib.contextmanager
def inside(box: Sandbox | None) -> Iterator[None]:
    if box is None:
        yield
        return
    with namespace.entered(box.netns_fd):
        yield


def fetch(box: Sandbox | None, address: str, port: int, timeout_s: float = 2.0) -> bytes:
    """What a TCP server answers to a client in that namespace (None: the host's). Raises OSError."""
    with inside(box):
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    with client:
        client.settimeout(timeout_s)
        client.connect((address, port))
        data = b""
        while chunk := client.recv(4096):
            data += chunk
        return data


def reachable(box: Sandbox | None, address: str, port: int) -> bool:
    try:
        return bool(fetch(box, address, port, timeout_s=0.4))
    except OSError:
        return False
