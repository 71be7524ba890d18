"""Queries and bodies of /containers and /exec. Source: Docker Engine API 1.50, Container, Exec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.api.parameters import (
    FilterMap,
    Flag,
    Integer,
    Moment,
    OptionalInteger,
    QueryModel,
    TerminalSize,
    Text,
)
from services.api.versions import Since
from shared.contracts.docker import (
    ContainerConfig,
    DockerModel,
    Environment,
    HostConfig,
    NetworkingConfig,
    Resources,
    RestartPolicy,
)
from shared.docker.integers import TerminalSizes
from shared.docker.null import Bool, Str, StrList


class CreateQuery(QueryModel):
    name: Text = Field("", description="The container's name; one is made up when it is empty.")
    platform: Text = Field("", description="The image's platform, as in linux/arm64/v8.")


class ContainerBody(ContainerConfig):
    """The configuration, with two objects beside its own fields."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None

    def says_nothing(self) -> bool:
        return not self.model_fields_set - {"host_config", "networking_config"}


class UpdateBody(Resources):
    """New limits and restart policy; what is left out stays."""

    restart_policy: RestartPolicy | None = None


class StartQuery(QueryModel):
    detach_keys: Text = Field("", alias="detachKeys", description="The keys that end an attachment.")
    checkpoint: Text = Field("", description="Not supported: refused when it is not empty.")


class StopQuery(QueryModel):
    signal: Text = Field("", description="The signal to stop with; the container's own when it is empty.")
    t: OptionalInteger = Field(None, description="Seconds until it is killed; negative waits for ever.")


class KillQuery(QueryModel):
    signal: Text = Field("", description="A signal's name or number; SIGKILL when it is empty.")


class RenameQuery(QueryModel):
    name: Text = Field("", description="The new name.")


class ResizeQuery(QueryModel):
    h: TerminalSize = Field(description="Rows.")
    w: TerminalSize = Field(description="Columns.")


class RemoveQuery(QueryModel):
    v: Flag = Field(False, description="Remove its anonymous volumes, too.")
    force: Flag = Field(False, description="Kill it if it runs.")
    link: Flag = Field(False, description="Remove the link of that name, not a container.")


class InspectQuery(QueryModel):
    size: Flag = Field(False, description="With the sizes of its files.")


class ListQuery(QueryModel):
    all: Flag = Field(False, description="Also those that do not run.")
    limit: Integer = Field(0, description="That many of the newest, whether or not they run; 0 for all.")
    size: Flag = Field(False, description="With the sizes of their files.")
    filters: FilterMap = Field(default_factory=dict)


class TopQuery(QueryModel):
    ps_args: Text = Field("-ef", description="Arguments of ps.")


class FiltersQuery(QueryModel):
    filters: FilterMap = Field(default_factory=dict)


class WaitQuery(QueryModel):
    condition: Text = Field("not-running", description="not-running, next-exit or removed.")


class StatsQuery(QueryModel):
    stream: Flag = Field(True, description="One sample a second until the client leaves.")
    one_shot: Flag = Field(False, alias="one-shot", description="A single sample without one before it.")


class AttachQuery(QueryModel):
    detach_keys: Text = Field("", alias="detachKeys", description="The keys that end the attachment.")
    logs: Flag = Field(False, description="What was written before, first.")
    stream: Flag = Field(False, description="What is written from now on.")
    stdin: Flag = Field(False, description="Join the process's input.")
    stdout: Flag = Field(False, description="Join its output.")
    stderr: Flag = Field(False, description="Join its error output.")


class LogsQuery(QueryModel):
    follow: Flag = Field(False, description="Go on with what is written from now on.")
    stdout: Flag = Field(False, description="The output.")
    stderr: Flag = Field(False, description="The error output.")
    since: Moment = Field(0, description="Only what was written from then on.")
    until: Moment = Field(0, description="Only what was written up to then.")
    timestamps: Flag = Field(False, description="Each line with its time before it.")
    tail: Text = Field("all", description="That many lines from the end, or all.")
    details: Flag = Field(False, description="Each line with its labels and variables before it.")


class PathQuery(QueryModel):
    path: Text = Field("", description="A path in the container. Required.")


class PutArchiveQuery(PathQuery):
    no_overwrite_dir_non_dir: Flag = Field(
        False, alias="noOverwriteDirNonDir", description="Fail where a directory would replace a file, or the reverse."
    )
    copy_uid_gid: Flag = Field(False, alias="copyUIDGID", description="Take owners from the archive.")


class ExecBody(DockerModel):
    """A process to be added to a container."""

    user: Str = ""
    privileged: Bool = False
    tty: Bool = False
    console_size: Annotated[TerminalSizes, Since(1, 42)] = Field(default_factory=list)
    attach_stdin: Bool = False
    attach_stdout: Bool = False
    attach_stderr: Bool = False
    detach_keys: Str = ""
    env: Environment = Field(default_factory=list)
    working_dir: Str = ""
    cmd: StrList = Field(default_factory=list)


class ExecStartBody(DockerModel):
    detach: Bool = False
    tty: Bool = False
    console_size: Annotated[TerminalSizes, Since(1, 42)] = Field(default_factory=list)


WaitCondition = Literal["not-running", "next-exit", "removed"]
