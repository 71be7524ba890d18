"""What a local volume is, and which requests for one make sense. Pure.

Source: Docker Engine API 1.50, Volume; the local driver's options as mount(8) takes them; the reference engine's texts.
"""

from __future__ import annotations

import re
import secrets

from pydantic import BaseModel, Field

from shared.contracts.volumes import Volume
from shared.docker.filters import Filters, has_labels, truth
from shared.errors import InvalidArgument, NotFound

DRIVER = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
OPTIONS = ("type", "o", "device")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
LONGEST_NAME = 255
LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS = frozenset({"all", "label", "label!"})


class VolumeRecord(BaseModel):
    """A volume as it is stored."""

    name: str
    node: str
    created_at: str
    driver: str = DRIVER
    anonymous: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    options: dict[str, str] = Field(default_factory=dict)

    def view(self, mountpoint: str, holders: list[str]) -> Volume:
        return Volume(
            name=self.name,
            driver=self.driver,
            mountpoint=mountpoint,
            created_at=self.created_at,
            labels=self.labels,
            options=self.options,
            anonymous=self.anonymous,
            node=self.node,
            in_use_by=holders,
        )


def new_volume(
    name: str, driver: str, options: dict[str, str], labels: dict[str, str], *, node: str, created_at: str
) -> VolumeRecord:
    """A volume as asked for; an empty name makes it anonymous.

    Raises:
        InvalidArgument, NotFound: In Docker's words.
    """
    anonymous = not name
    if anonymous:
        name = secrets.token_hex(32)
        labels = {ANONYMOUS_LABEL: "", **labels}
    check_driver(name, driver)
    check_name(name)
    check_options(name, options)
    return VolumeRecord(
        name=name,
        node=node,
        created_at=created_at,
        anonymous=anonymous,
        labels=labels,
        options=options,
    )


def check_driver(name: str, driver: str) -> None:
    if driver not in ("", DRIVER):
        raise NotFound(
            f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found', field="Driver"
        )


def check_name(name: str) -> None:
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters",
            field="Name",
        )
    if not NAME.fullmatch(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
            field="Name",
        )
    if len(name) > LONGEST_NAME:
        raise InvalidArgument(
            f"create {name}: volume name is too long, a file name has at most {LONGEST_NAME} characters", field="Name"
        )


def check_options(name: str, options: dict[str, str]) -> None:
    """The local driver's options: none, or a mount described by type, device and o."""
    if "size" in options:
        raise InvalidArgument(f"create {name}: quota size requested but no quota support", field="DriverOpts.size")
    for option in options:
        if option not in OPTIONS:
            raise InvalidArgument(f'create {name}: invalid option: "{option}"', field=f"DriverOpts.{option}")
    if options:
        for required in ("device", "type"):
            if not options.get(required):
                raise InvalidArgument(
                    f'create {name}: missing required option: "{required}"', field=f"DriverOpts.{required}"
                )


def matches(record: VolumeRecord, filters: Filters, *, in_use: bool) -> bool:
    """Whether a volume passes a list request's filters, which were checked."""
    if "driver" in filters and record.driver not in filters["driver"]:
        return False
    if "name" in filters and not any(text in record.name for text in filters["name"]):
        return False
    return truth(filters, "dangling") is not in_use and has_labels(record.labels, filters)


def prunable(record: VolumeRecord, filters: Filters) -> bool:
    """Whether an unused volume goes: anonymous ones only, unless ``all`` says otherwise."""
    return (record.anonymous or truth(filters, "all") is True) and has_labels(record.labels, filters)
