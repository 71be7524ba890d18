"""The network service's tables, and what it asks of them.

Networks never change once created, so their rows are kept by id in memory; whether one still exists is always asked
of the table. Endpoints are read together with the networks they join: a join is one query and one insert, plus two
for published ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, Field

from services.network.domain import NetworkRecord
from services.network.ipam import Pool
from services.network.ports import Taken
from shared.contracts.docker import EndpointSettings
from shared.contracts.networks import Attachment, NodeNetwork
from shared.state.connection import Connection
from shared.state.database import Transaction
from shared.state.statements import Prepared

metadata = sa.MetaData()

networks = sa.Table(
    "networks",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("document", sa.Text, nullable=False),
)

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("network_id", sa.String(64), nullable=False),
    sa.Column("container_id", sa.String(64), nullable=False),
    sa.Column("node", sa.String(255), nullable=False),
    sa.Column("address", sa.String(64), nullable=True),
    sa.Column("address6", sa.String(64), nullable=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.UniqueConstraint("network_id", "container_id", name="uq_endpoints_network_container"),
    sa.UniqueConstraint("network_id", "address", name="uq_endpoints_network_address"),
    sa.UniqueConstraint("network_id", "address6", name="uq_endpoints_network_address6"),
    sa.Index("ix_endpoints_container_id", "container_id"),
)

ports = sa.Table(
    "ports",
    metadata,
    sa.Column("node", sa.String(255), primary_key=True),
    sa.Column("host_port", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("protocol", sa.String(8), primary_key=True),
    sa.Column("host_ip", sa.String(64), primary_key=True),
    sa.Column("endpoint_id", sa.String(64), nullable=False),
    sa.Index("ix_ports_endpoint_id", "endpoint_id"),
)


@dataclass(frozen=True)
class KnownNetwork:
    """A network with what is worked out from its record once."""

    record: NetworkRecord

    @cached_property
    def four(self) -> Pool | None:
        return self.record.pool(4)

    @cached_property
    def six(self) -> Pool | None:
        return self.record.pool(6)

    @cached_property
    def node_view(self) -> NodeNetwork:
        return self.record.node_view()

    @cached_property
    def document(self) -> str:
        return self.record.model_dump_json()


class EndpointRecord(BaseModel):
    """An endpoint as it is stored. The attachment's network is left out and put back on reading.

    Attributes:
        generation: The container's start that it is for.
    """

    attachment: dict[str, Any]
    settings: EndpointSettings = Field(default_factory=EndpointSettings)
    priority: int = 0
    generation: int = 0

    @classmethod
    def of(cls, attachment: Attachment, settings: EndpointSettings, generation: int) -> EndpointRecord:
        body = attachment.model_dump(mode="json", exclude={"network"}, exclude_defaults=True)
        return cls(attachment=body, settings=settings, priority=settings.gw_priority, generation=generation)

    def on(self, network: KnownNetwork) -> Attachment:
        return Attachment(network=network.node_view, **self.attachment)


@dataclass(slots=True)
class Occupancy:
    """A network with what is in use on it, and this container's endpoint, if it has one."""

    network: KnownNetwork
    addresses: set[str] = field(default_factory=set)
    own: EndpointRecord | None = None


# One row per network whatever the number of endpoints: the database joins the texts, which costs a tenth of rows.
_own_document = sa.func.max(
    sa.case((endpoints.c.container_id == sa.bindparam("container_id"), endpoints.c.document), else_=None)
).label("own")
_occupancy = Prepared(
    sa.select(
        networks.c.id,
        sa.func.aggregate_strings(endpoints.c.address, ",").label("addresses"),
        sa.func.aggregate_strings(endpoints.c.address6, ",").label("addresses6"),
        _own_document,
    )
    .select_from(networks.outerjoin(endpoints, endpoints.c.network_id == networks.c.id))
    .where(
        networks.c.name.in_(sa.bindparam("names", expanding=True))
        | networks.c.id.in_(sa.bindparam("names", expanding=True))
    )
    .group_by(networks.c.id)
)
_documents = Prepared(
    sa.select(networks.c.id, networks.c.document).where(networks.c.id.in_(sa.bindparam("ids", expanding=True)))
)
_every_network = Prepared(sa.select(networks.c.id))
_by_container = Prepared(
    sa.select(endpoints.c.network_id, endpoints.c.document).where(
        endpoints.c.container_id == sa.bindparam("container_id")
    )
)
_by_network = Prepared(sa.select(endpoints.c.document).where(endpoints.c.network_id == sa.bindparam("network_id")))
_every_endpoint = Prepared(sa.select(endpoints.c.network_id, endpoints.c.document))
_used_networks = Prepared(sa.select(endpoints.c.network_id).distinct())
_taken_ports = Prepared(
    sa.select(ports.c.protocol, ports.c.host_ip, ports.c.host_port).where(
        ports.c.node == sa.bindparam("node"),
        ports.c.host_port.in_(sa.bindparam("fixed", expanding=True))
        | ports.c.host_port.between(sa.bindparam("first"), sa.bindparam("last")),
    )
)
_insert_network = Prepared(sa.insert(networks))
_insert_endpoint = Prepared(sa.insert(endpoints))
_insert_ports = Prepared(sa.insert(ports))
_delete_network = Prepared(sa.delete(networks).where(networks.c.id == sa.bindparam("network_id")))
_delete_endpoints = Prepared(sa.delete(endpoints).where(endpoints.c.id.in_(sa.bindparam("ids", expanding=True))))
_delete_ports = Prepared(sa.delete(ports).where(ports.c.endpoint_id.in_(sa.bindparam("ids", expanding=True))))
_update_document = Prepared(
    sa.update(endpoints)
    .where(endpoints.c.id == sa.bindparam("endpoint_id"))
    .values(document=sa.bindparam("new_document"))
)

Source = Connection | Transaction


class NetworkStore:
    """Queries on the tables; each runs in the transaction or on the connection it is given."""

    def __init__(self) -> None:
        self._known: dict[str, KnownNetwork] = {}

    def known(self, network_id: str) -> KnownNetwork:
        """A network that was read in this transaction."""
        return self._known[network_id]

    async def networks(self, source: Source) -> list[KnownNetwork]:
        ids = [row.id for row in await source.execute(_every_network)]
        known = await self._load(source, ids)
        for gone in set(self._known) - set(ids):
            del self._known[gone]
        return [known[network_id] for network_id in ids]

    async def occupancy(self, tx: Transaction, container_id: str, names: Sequence[str]) -> list[Occupancy]:
        """The networks of these names or ids that exist, with what is in use on them."""
        rows = (await tx.execute(_occupancy, {"container_id": container_id, "names": list(names)})).all()
        known = await self._load(tx, {row.id for row in rows})
        found = []
        for row in rows:
            texts = f"{row.addresses or ''},{row.addresses6 or ''}"
            own = EndpointRecord.model_validate_json(row.own) if row.own else None
            found.append(Occupancy(known[row.id], set(filter(None, texts.split(","))), own))
        return found

    async def of_container(self, source: Source, container_id: str) -> list[tuple[KnownNetwork, EndpointRecord]]:
        rows = (await source.execute(_by_container, {"container_id": container_id})).all()
        return await self._with_networks(source, rows)

    async def every_endpoint(self, source: Source) -> list[tuple[KnownNetwork, EndpointRecord]]:
        return await self._with_networks(source, (await source.execute(_every_endpoint)).all())

    async def of_network(self, source: Source, network: KnownNetwork) -> list[EndpointRecord]:
        rows = await source.execute(_by_network, {"network_id": network.record.id})
        return [EndpointRecord.model_validate_json(row.document) for row in rows]

    async def used_networks(self, source: Source) -> set[str]:
        return {row.network_id for row in await source.execute(_used_networks)}

    async def taken_ports(self, tx: Transaction, node: str, fixed: Iterable[int], window: range) -> Taken:
        """Who has these host ports, and those of the window, on a node."""
        parameters = {
            "node": node,
            "fixed": list(fixed),
            "first": window.start,
            "last": window.stop - 1,
        }
        taken: Taken = {}
        for row in await tx.execute(_taken_ports, parameters):
            taken.setdefault((row.protocol, row.host_port), set()).add(row.host_ip)
        return taken

    async def add_network(self, tx: Transaction, record: NetworkRecord) -> KnownNetwork:
        """Raises Conflict when the name is taken."""
        known = KnownNetwork(record)
        await tx.execute(_insert_network, {"id": record.id, "name": record.name, "document": known.document})
        return known

    async def remove_network(self, tx: Transaction, network_id: str) -> None:
        await tx.execute(_delete_network, {"network_id": network_id})
        self._known.pop(network_id, None)

    async def add_endpoints(
        self, tx: Transaction, node: str, added: Iterable[tuple[Attachment, EndpointRecord]]
    ) -> None:
        rows, port_rows = [], []
        for attachment, record in added:
            rows.append(
                {
                    "id": attachment.endpoint_id,
                    "network_id": attachment.network.id,
                    "container_id": attachment.container_id,
                    "node": node,
                    "address": attachment.address.partition("/")[0] or None,
                    "address6": attachment.address6.partition("/")[0] or None,
                    "document": record.model_dump_json(exclude_defaults=True, by_alias=True),
                }
            )
            port_rows += [
                {
                    "node": node,
                    "protocol": port.protocol,
                    "host_ip": port.host_ip,
                    "host_port": port.host_port,
                    "endpoint_id": attachment.endpoint_id,
                }
                for port in attachment.ports
            ]
        if rows:
            await tx.execute(_insert_endpoint, rows)
        if port_rows:
            await tx.execute(_insert_ports, port_rows)

    async def update_endpoint(self, tx: Transaction, record: EndpointRecord) -> None:
        await tx.execute(
            _update_document,
            {
                "endpoint_id": record.attachment["endpoint_id"],
                "new_document": record.model_dump_json(exclude_defaults=True, by_alias=True),
            },
        )

    async def remove_endpoints(self, tx: Transaction, removed: Sequence[EndpointRecord]) -> None:
        ids = [record.attachment["endpoint_id"] for record in removed]
        await tx.execute(_delete_endpoints, {"ids": ids})
        if any(record.attachment.get("ports") for record in removed):
            await tx.execute(_delete_ports, {"ids": ids})

    async def _with_networks(self, source: Source, rows: Sequence[Any]) -> list[tuple[KnownNetwork, EndpointRecord]]:
        known = await self._load(source, {row.network_id for row in rows})
        return [(known[row.network_id], EndpointRecord.model_validate_json(row.document)) for row in rows]

    async def _load(self, source: Source, ids: Iterable[str]) -> dict[str, KnownNetwork]:
        wanted = list(ids)
        missing = [network_id for network_id in wanted if network_id not in self._known]
        if missing:
            for row in await source.execute(_documents, {"ids": missing}):
                self._known[row.id] = KnownNetwork(NetworkRecord.model_validate_json(row.document))
        return {network_id: self._known[network_id] for network_id in wanted}
