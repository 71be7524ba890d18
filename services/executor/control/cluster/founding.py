"""Founding a cluster, letting machines in, and leaving.

::

    joining machine                       a manager: door (api)                control
      │ GET /ca ────────────────────────────►│  is its digest the token's?       │
      │ POST /join  secret, CSR, name ──────►│ JOIN ─────────────────────────────►│ secret? name free?
      │                                      │                                    │ member + event (1 tx)
      │                                      │                                    │ nodes.json; the gate reads it
      │◄── certificate, where the bus is ────┤◄───────────────────────────────────┤
      │ mutual TLS ─────────────────────────────────────────────► gate
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.executor.control.cluster import sql
from services.executor.control.cluster.addresses import advertised
from services.executor.control.cluster.model import (
    ClusterRecord,
    Member,
    check_last_manager,
    check_version,
    default_spec,
    merged,
)
from services.executor.control.state.sql import Reader
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.context import check_node
from shared.clock import Clock
from shared.cluster import tokens
from shared.cluster.membership import AdmittedNode, ClusterDirectory, Membership, split_address
from shared.contracts import cluster as contract
from shared.contracts.cluster import (
    ClusterState,
    Founded,
    InitCluster,
    JoinCluster,
    Joined,
    LeaveCluster,
    RenewCertificate,
    Renewed,
    UpdateCluster,
)
from shared.errors import Conflict, Forbidden, InvalidArgument, NotFound, Unavailable
from shared.state.database import Database

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
ALREADY = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
NOT_IN_ONE = "This node is not part of a swarm"
LAST_LEAVES = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
    "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
)


class Founding:
    """Handlers of INIT, INSPECT, UPDATE, LEAVE, JOIN and RENEW.

    Args:
        node: This machine's name.
        tell_supervisor: Has the gate brought up to date.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        directory: ClusterDirectory,
        clock: Clock,
        node: str,
        tell_supervisor: Callable[[], None],
    ) -> None:
        self._database = database
        self._bus = bus
        self._directory = directory
        self._clock = clock
        self._node = node
        self._tell_supervisor = tell_supervisor

    async def init(self, request: InitCluster) -> Founded:
        """Raises Conflict (in Docker's words): this machine is in a cluster already."""
        if self._directory.membership() is not None:
            raise Unavailable(ALREADY)
        address, port = advertised(request.advertise, request.port)
        membership = Membership(
            cluster=tokens.new_identifier(),
            id=tokens.new_identifier(),
            node=self._node,
            role="manager",
            advertise=address,
            listen=request.listen,
            port=port,
            managers=[f"[{address}]:{port}" if ":" in address else f"{address}:{port}"],
        )
        # Imported here: who founds no cluster does without it.
        from shared.cluster.certificates import CertificateAuthority, NodeName, new_request

        authority = await asyncio.to_thread(CertificateAuthority.new, membership.cluster)
        name = NodeName(membership.id, "manager", membership.cluster)
        key, csr = await asyncio.to_thread(new_request)
        certificate = authority.issue(csr, name, [address, "127.0.0.1"])
        record = self._new_record(request, membership, authority.pem)
        own = self._new_member(membership, name.subject, request.availability)
        await asyncio.to_thread(
            self._directory.enter,
            membership,
            ca=authority.pem,
            certificate=certificate,
            key=key,
            ca_key=authority.key_pem,
        )
        try:
            async with self._database.transaction() as tx:
                await sql.add_cluster(tx, record)
                await sql.add_member(tx, own)
                tx.emit(own.event("create"))
        except BaseException:
            self._directory.leave()
            raise
        await self._changed()
        return Founded(node_id=own.id)

    def _new_record(self, request: InitCluster, membership: Membership, ca: bytes) -> ClusterRecord:
        now = self._clock.time_ns()
        worker, manager = tokens.new_token(ca), tokens.new_token(ca)
        return ClusterRecord(
            id=membership.cluster,
            created_ns=now,
            updated_ns=now,
            spec=default_spec(request.spec),
            ca=ca.decode(),
            worker_secret=worker.secret,
            manager_secret=manager.secret,
            worker_token=str(worker),
            manager_token=str(manager),
            data_path_port=request.data_path_port or 4789,
            default_addr_pool=request.default_addr_pool or ["10.0.0.0/8"],
            subnet_size=request.subnet_size or 24,
        )

    def _new_member(self, membership: Membership, subject: str, availability: contract.Availability) -> Member:
        now = self._clock.time_ns()
        door = membership.managers[0] if membership.role == "manager" else ""
        return Member(
            id=membership.id,
            name=membership.node,
            role=membership.role,
            availability=availability,
            address=membership.advertise,
            door=door,
            subject=subject,
            created_ns=now,
            updated_ns=now,
        )

    async def inspect(self, _: Empty) -> ClusterState:
        membership = self._directory.membership()
        async with self._database.read() as reader:
            record = await sql.the_cluster(reader)
            members = await sql.all_members(reader) if record is not None else []
        if record is None or membership is None:
            return ClusterState()
        managers = {one.id: one.door for one in members if one.role == "manager"}
        return ClusterState(
            cluster=record.view(),
            node_id=membership.id,
            address=membership.advertise,
            nodes=len(members),
            managers=managers,
        )

    async def update(self, request: UpdateCluster) -> Empty:
        async with self._database.transaction() as tx:
            record = await self._required(tx)
            check_version(record.version, request.version)
            if request.spec is not None:
                record.spec = merged(record.spec, request.spec)
            for rotated, role in ((request.rotate_worker_token, "worker"), (request.rotate_manager_token, "manager")):
                if rotated:
                    token = tokens.new_token(record.ca.encode())
                    setattr(record, f"{role}_secret", token.secret)
                    setattr(record, f"{role}_token", str(token))
            record.updated_ns = self._clock.time_ns()
            await sql.save_cluster(tx, record)
        return EMPTY

    async def _required(self, reader: Reader) -> ClusterRecord:
        record = await sql.the_cluster(reader)
        if record is None:
            raise Unavailable(NOT_A_MANAGER)
        return record

    async def join(self, request: JoinCluster) -> Joined:
        """Let a machine in.

        Raises:
            Forbidden: The token's secret is not, or not any more, one of the cluster's.
            Conflict: A node has that name.
        """
        membership = self._directory.membership()
        async with self._database.read() as reader:
            record = await self._required(reader)
            members = await sql.all_members(reader)
        role = record.role_of(request.secret)
        if role is None or membership is None:
            raise Forbidden("A valid join token is necessary to join this cluster", field="JoinToken")
        if role == "manager":
            raise InvalidArgument(
                "a second manager needs what managers share: start every manager on one Postgres (--database URL) and "
                "one NATS cluster (--nats URL); this cluster's manager keeps its records in SQLite",
                field="JoinToken",
            )
        if not request.node or len(request.node) > 255:
            raise InvalidArgument("a node needs a name of at most 255 characters", field="node")
        from shared.cluster.certificates import CertificateAuthority, NodeName

        address = next(iter(request.addresses), "") or request.seen_from
        managers = [one.door for one in members if one.role == "manager" and one.door] or membership.managers
        joined = Membership(
            cluster=record.id,
            id=tokens.new_identifier(),
            node=request.node,
            role=role,
            advertise=address,
            port=membership.port,
            managers=managers,
        )
        name = NodeName(joined.id, role, record.id)
        authority = CertificateAuthority(record.ca.encode(), self._directory.ca_key.read_bytes())
        certificate = authority.issue(request.csr.encode(), name, [address])
        member = self._new_member(joined, name.subject, request.availability)
        try:
            async with self._database.transaction() as tx:
                await sql.add_member(tx, member)
                tx.emit(member.event("create"))
        except Conflict as error:
            raise Conflict(
                f"a node of the name {request.node} is in the cluster already: give this one another (--node NAME), or "
                f"remove the other (davit node rm --force {request.node})",
                field="node",
            ) from error
        await self._changed()
        return Joined(certificate=certificate.decode(), ca=record.ca, membership=joined)

    async def renew(self, request: RenewCertificate) -> Renewed:
        """A new certificate for a node that has one still."""
        check_node(request.node)
        async with self._database.read() as reader:
            record = await self._required(reader)
            members = await sql.all_members(reader)
        member = next((one for one in members if one.name == request.node), None)
        if member is None:
            raise NotFound(f"node {request.node} not found")
        from shared.cluster.certificates import CertificateAuthority, NodeName

        authority = CertificateAuthority(record.ca.encode(), self._directory.ca_key.read_bytes())
        name = NodeName(member.id, member.role, record.id)
        host = split_address(member.door)[0].strip("[]") if member.door else member.address
        certificate = authority.issue(request.csr.encode(), name, [host, "127.0.0.1"] if member.door else [host])
        return Renewed(
            certificate=certificate.decode(), managers=[one.door for one in members if one.role == "manager"]
        )

    async def leave(self, request: LeaveCluster) -> Empty:
        """This machine leaves; the last manager takes the cluster with it."""
        membership = self._directory.membership()
        if membership is None:
            raise Unavailable(NOT_IN_ONE)
        async with self._database.read() as reader:
            members = await sql.all_members(reader)
        own = next((one for one in members if one.id == membership.id), None)
        if own is not None and not request.force:
            try:
                check_last_manager(members, own)
            except Conflict as error:
                raise Unavailable(LAST_LEAVES) from error
        async with self._database.transaction() as tx:
            if len([one for one in members if one.role == "manager"]) > 1 and own is not None:
                await sql.remove_member(tx, own)
                tx.emit(own.event("remove"))
            else:
                await sql.forget(tx)
        self._directory.leave()
        await self._changed()
        return EMPTY

    async def admit(self) -> None:
        """Write down who is let in; have the gate read it, if that is news."""
        if self._directory.membership() is None:
            return
        async with self._database.read() as reader:
            members = await sql.all_members(reader)
        nodes = {one.id: AdmittedNode(node=one.name, subject=one.subject) for one in members}
        if await asyncio.to_thread(self._directory.admit, nodes):
            self._tell_supervisor()

    async def _changed(self) -> None:
        if self._directory.membership() is None:
            self._tell_supervisor()
        await self.admit()
        await self._bus.publish(contract.CHANGED, b"{}")
