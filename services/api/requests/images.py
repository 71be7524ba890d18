"""Queries of /images, /commit and /build. Source: Docker Engine API 1.50, Image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.api.parameters import FilterMap, Flag, Integer, Json, QueryModel, Text, Texts
from services.api.versions import Since, Until
from shared.auditing.secret import ADDRESS, VALUES, WHOLE

DEFAULT_SEARCH_LIMIT = 25
PLATFORM = "A platform, as in linux/arm64/v8."


class CreateQuery(QueryModel):
    from_image: Text = Field("", alias="fromImage", description="The image to pull.")
    from_src: Annotated[Text, ADDRESS] = Field(
        "", alias="fromSrc", description="What to import: a URL, or - for the body."
    )
    repo: Text = Field("", description="The imported image's name.")
    tag: Text = Field("", description="A tag or a digest; all tags of the name when there is none.")
    message: Text = Field("", description="The imported image's comment.")
    changes: Annotated[Texts, WHOLE] = Field(
        default_factory=list, description="Instructions of a Dockerfile for the imported image."
    )
    platform: Text = Field("", description=PLATFORM)


class LoadQuery(QueryModel):
    quiet: Flag = Field(False, description="Without progress.")
    platform: Annotated[Texts, Since(1, 48)] = Field(default_factory=list, description=PLATFORM)


class SaveQuery(QueryModel):
    platform: Annotated[Texts, Since(1, 48)] = Field(default_factory=list, description=PLATFORM)


class SaveManyQuery(SaveQuery):
    names: Texts = Field(default_factory=list, description="The images' names.")


class PushQuery(QueryModel):
    tag: Text = Field("", description="The tag to push; all of the name's when it is empty.")
    platform: Annotated[Text, Since(1, 46)] = Field("", description=PLATFORM)


class ListQuery(QueryModel):
    all: Flag = Field(False, description="Also those between the ones with names.")
    filters: FilterMap = Field(default_factory=dict)
    filter: Annotated[Text, Until(1, 41)] = Field("", description="A reference.")
    shared_size: Annotated[Flag, Since(1, 42)] = Field(False, alias="shared-size", description="With shared sizes.")
    digests: Flag = Field(False, description="With the digests of their names.")
    manifests: Annotated[Flag, Since(1, 47)] = Field(False, description="With all that a name stands for.")
    identity: Annotated[Flag, Since(1, 54)] = Field(
        False, description="The same, and who is known to have made it; this engine verifies nobody."
    )


class InspectQuery(QueryModel):
    platform: Annotated[Text, Since(1, 49)] = Field("", description=PLATFORM)
    manifests: Annotated[Flag, Since(1, 48)] = Field(False, description="With all that the name stands for.")


class HistoryQuery(QueryModel):
    platform: Annotated[Text, Since(1, 48)] = Field("", description=PLATFORM)


class TagQuery(QueryModel):
    repo: Text = Field("", description="The name to give.")
    tag: Text = Field("", description="The tag to give; latest when it is empty.")


class RemoveQuery(QueryModel):
    force: Flag = Field(False, description="Also when stopped containers were made of it, or it has several names.")
    no_prune: Flag = Field(False, alias="noprune", description="Leave the images that it was made of.")
    platforms: Annotated[Texts, Since(1, 50)] = Field(default_factory=list, description=PLATFORM)


class FiltersQuery(QueryModel):
    filters: FilterMap = Field(default_factory=dict)


class SearchQuery(QueryModel):
    term: Text = Field("", description="What to look for. Required.")
    limit: Integer = Field(DEFAULT_SEARCH_LIMIT, description="At most that many.")
    filters: FilterMap = Field(default_factory=dict)


class CommitQuery(QueryModel):
    container: Text = Field("", description="The container's id or name.")
    repo: Text = Field("", description="The image's name.")
    tag: Text = Field("", description="The image's tag.")
    comment: Text = Field("", description="A comment.")
    author: Text = Field("", description="Who made it.")
    pause: Flag = Field(True, description="Pause the container meanwhile.")
    changes: Annotated[Texts, WHOLE] = Field(
        default_factory=list, description="Instructions of a Dockerfile for the image."
    )


class BuildQuery(QueryModel):
    dockerfile: Text = Field("", description="The Dockerfile's path in the context; Dockerfile when it is empty.")
    t: Texts = Field(default_factory=list, description="A name for the image.")
    extra_hosts: Texts = Field(
        default_factory=list, alias="extrahosts", description="Lines of /etc/hosts: name:address."
    )
    remote: Annotated[Text, ADDRESS] = Field("", description="Where the context is, when it is not the body.")
    q: Flag = Field(False, description="Only the image's id.")
    no_cache: Flag = Field(False, alias="nocache", description="Take nothing from earlier builds.")
    cache_from: Json = Field(None, alias="cachefrom", description="A JSON list of images whose layers may be taken.")
    pull: Flag = Field(False, description="Pull the base images, even if they are there.")
    rm: Flag = Field(True, description="Remove what a build leaves behind.")
    force_rm: Flag = Field(False, alias="forcerm", description="Remove it also when the build fails.")
    memory: Integer = Field(0, description="The limit of memory, in bytes.")
    memory_swap: Integer = Field(0, alias="memswap", description="The limit of memory and swap, in bytes.")
    cpu_shares: Integer = Field(0, alias="cpushares", description="The weight of its processors.")
    cpuset_cpus: Text = Field("", alias="cpusetcpus", description="The processors it may run on.")
    cpuset_mems: Text = Field("", alias="cpusetmems", description="The memory nodes it may use.")
    cpu_period: Integer = Field(0, alias="cpuperiod", description="Microseconds of a period.")
    cpu_quota: Integer = Field(0, alias="cpuquota", description="Microseconds of processor in a period.")
    cgroup_parent: Text = Field("", alias="cgroupparent", description="The control group above its own.")
    build_args: Annotated[Json, VALUES] = Field(None, alias="buildargs", description="A JSON object of arguments.")
    shm_size: Integer = Field(0, alias="shmsize", description="Bytes of /dev/shm.")
    ulimits: Json = Field(None, description="A JSON list of Name, Soft and Hard.")
    labels: Json = Field(None, description="A JSON object of labels.")
    squash: Flag = Field(False, description="Not supported: refused when it is set.")
    network_mode: Text = Field("", alias="networkmode", description="The network of its containers.")
    platform: Text = Field("", description=PLATFORM)
    target: Text = Field("", description="The stage to stop at.")
    isolation: Text = Field("", description="Not supported but for the default.")
    security_opt: Texts = Field(default_factory=list, alias="securityopt", description="Security options.")
    version: Text = Field("", description="1; 2 is BuildKit's, which is not served here.")
    outputs: Text = Field("", description="BuildKit's: refused when it is not empty.")


class BuildPruneQuery(QueryModel):
    all: Flag = Field(False, description="Also what images are made of.")
    filters: FilterMap = Field(default_factory=dict)
    keep_storage: Integer = Field(0, alias="keep-storage", description="Bytes to keep.")
    reserved_space: Annotated[Integer, Since(1, 48)] = Field(0, alias="reserved-space", description="Bytes to keep.")
    max_used_space: Annotated[Integer, Since(1, 48)] = Field(
        0, alias="max-used-space", description="Not supported: refused unless it is 0."
    )
    min_free_space: Annotated[Integer, Since(1, 48)] = Field(
        0, alias="min-free-space", description="Not supported: refused unless it is 0."
    )


class BuildCancelQuery(QueryModel):
    id: Text = Field("", description="A build's id.")
